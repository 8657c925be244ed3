"""Proof of service: verifiers that nobody can tell from customers say how well a service keeps what it promised."""
