"""Adaptors of CloudPoS: the plot on the disk, the timed hash chain, the timed transfer, and the tests of all three.

What the results count for is in `transaction_chain/cloudpos`.
"""
