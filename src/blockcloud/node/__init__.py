"""Wiring: configuration, storage, network, threads and clock around the cores, and the validator that they make up.

Everything here may do input and output; everything it drives (layers 1 to 4) may not. A core hands out duties in the
order they must be carried out, and this package carries them out.
"""
