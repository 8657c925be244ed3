"""Agreements: who delivers what to whom, at what price and how well. Each is a payment channel too."""
