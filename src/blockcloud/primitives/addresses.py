"""Account addresses: an Ed25519 public key in bech32m (BIP 350) with the prefix `bloc`.

The checksum finds any error in up to four characters, so a mistyped address is refused instead of paid.
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcloud.primitives.errors import InvalidAddress

PREFIX = "bloc"
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_BECH32M = 0x2BC830A3
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6
_KEY_BYTES = 32
_ADDRESS_LENGTH = len(PREFIX) + 1 + (_KEY_BYTES * 8 + 4) // 5 + _CHECKSUM_LENGTH


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= generator
    return check


def _expand(prefix: str) -> list[int]:
    return [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]


def bech32m_encode(prefix: str, data: bytes) -> str:
    """`data` as bech32m text under `prefix`."""
    number = int.from_bytes(data, "big")
    bits = len(data) * 8
    padding = -bits % 5
    groups = (bits + padding) // 5
    values = [(number << padding) >> 5 * (groups - 1 - i) & 31 for i in range(groups)]
    check = _polymod([*_expand(prefix), *values, *[0] * _CHECKSUM_LENGTH]) ^ _BECH32M
    checksum = [check >> 5 * (_CHECKSUM_LENGTH - 1 - i) & 31 for i in range(_CHECKSUM_LENGTH)]
    return prefix + "1" + "".join(_ALPHABET[value] for value in [*values, *checksum])


def bech32m_decode(text: str) -> tuple[str, bytes]:
    """(prefix, data) of bech32m text. Raises InvalidAddress."""
    if text != text.lower() and text != text.upper():
        raise InvalidAddress("mixed upper and lower case")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or not prefix or len(rest) < _CHECKSUM_LENGTH or len(text) > 90 or not prefix.isascii():
        raise InvalidAddress("not a bech32m text")
    if any(not 33 <= ord(character) <= 126 for character in prefix):
        raise InvalidAddress("prefix has a character outside printable ASCII")
    if any(character not in _VALUE for character in rest):
        raise InvalidAddress("has a character that no address contains")
    values = [_VALUE[character] for character in rest]
    if _polymod([*_expand(prefix), *values]) != _BECH32M:
        raise InvalidAddress("checksum does not match; a character is wrong or missing")
    payload = values[:-_CHECKSUM_LENGTH]
    padding = len(payload) * 5 % 8
    number = 0
    for value in payload:
        number = number << 5 | value
    if padding > 4 or number & ((1 << padding) - 1):
        raise InvalidAddress("padding is not zero")
    return prefix, (number >> padding).to_bytes(len(payload) * 5 // 8, "big")


def format_address(public_key: bytes) -> str:
    """The address of a public key (32 bytes)."""
    return bech32m_encode(PREFIX, public_key)


def parse_address(text: str) -> bytes:
    """The public key (32 bytes) of an address. Raises InvalidAddress."""
    if len(text) != _ADDRESS_LENGTH:
        raise InvalidAddress(f"an address has {_ADDRESS_LENGTH} characters", characters=len(text))
    prefix, key = bech32m_decode(text)
    if prefix != PREFIX:
        raise InvalidAddress("an address starts with 'bloc1'", prefix=prefix)
    return key
