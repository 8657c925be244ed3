"""Paying while using: vouchers in the session, a book on each side, credit that a provider never exceeds."""
