"""What every layer stands on: codec, hashes, keys, names, amounts, Merkle trees, certified statements, limits, errors.

Nothing here knows of a ledger, a socket or a clock. See DESIGN section 2.
"""
