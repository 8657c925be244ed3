"""Layer 3, service plane: service files, address records, and who holds them. Sans-IO.

Nothing here is trusted: a file is checked by its hash, a record by its signature, both against what the ledger lists.
DESIGN section 5.1.
"""
