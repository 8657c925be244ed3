"""The natural logarithm in integers, the same on every machine.

ln(n/d) = k ln 2 + 2 artanh((m - 1)/(m + 1)) with n/d = m 2^k and m near 1. The series runs in fixed point with 128
bits behind the point; its error is below 2^-110, so a result in millionths is the true one, rounded, unless that lies
within 2^-90 of a half.
"""

from __future__ import annotations

from typing import Final

MICRO: Final = 1_000_000
_BITS: Final = 128
_ONE: Final = 1 << _BITS
# Of each number: the shares that likelihoods are made of are far smaller.
ARGUMENT_MAX: Final = 2**63


def _twice_artanh(numerator: int, denominator: int) -> int:
    """2 artanh(numerator/denominator) in fixed point, for a quotient between -1/3 and 1/3."""
    term = abs(numerator) * _ONE // denominator
    square, total, odd = term * term >> _BITS, 0, 1
    while term:
        total += term // odd
        term, odd = term * square >> _BITS, odd + 2
    return 2 * total if numerator >= 0 else -2 * total


_LN_2: Final = _twice_artanh(1, 3)


def micro_nats(numerator: int, denominator: int) -> int:
    """ln(numerator/denominator) in millionths, rounded to the nearest; both are positive."""
    assert 0 < numerator < ARGUMENT_MAX, "a logarithm of something positive"
    assert 0 < denominator < ARGUMENT_MAX, "a logarithm of something positive"
    doublings = numerator.bit_length() - denominator.bit_length()
    top = numerator << max(0, -doublings)
    bottom = denominator << max(0, doublings)
    # Now 1/2 < top/bottom < 2, and the argument of artanh is between -1/3 and 1/3.
    fixed = doublings * _LN_2 + _twice_artanh(top - bottom, top + bottom)
    return (fixed * MICRO + _ONE // 2) >> _BITS
