"""Seeded eras of proof of service around the production rules, with liars among providers and verifiers, and the money
of each counted."""
