"""What a contract can ask of the ledger, and what that costs. The module name of all of them is `blockcloud`.

Places are offsets into the contract's exported memory. `..._ptr, ..._len` are bytes that are read there; `out_ptr,
out_len` is room for an answer: as much of it as fits is written, and its whole length is returned. Amounts are in
micro-BLOC. A function that refuses ends the whole transaction: a contract cannot catch a failure of another.

No clock, no randomness, nothing but the state. Where a contract needs time, it has the height.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from blockcloud.primitives.amounts import MAXIMUM_MICRO_BLOC
from blockcloud.primitives.errors import BadSignature
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.keys import verify
from blockcloud.service_chain.contracts import failures
from blockcloud.service_chain.contracts.limits import (
    BYTE_FUEL,
    EMIT_FUEL,
    EVENT_BYTES,
    HOST_FUEL,
    KEY_BYTES,
    MESSAGE_BYTES,
    OUTPUT_BYTES,
    READ_FUEL,
    REASON_BYTES,
    TOPIC_BYTES,
    TRANSFER_FUEL,
    VALUE_BYTES,
    VERIFY_FUEL,
    WRITE_BYTE_FUEL,
    WRITE_FUEL,
)
from blockcloud.service_chain.contracts.profile import Signature

if TYPE_CHECKING:
    from blockcloud.service_chain.contracts.runtime import Frame

ABSENT: Final = -1
ADDRESS_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
# The tag of messages that `verify` checks, so that no signature made for something else can be shown to a contract.
SIGNATURE_DOMAIN: Final = "contract/v1"


def _args(frame: Frame, out: int, room: int) -> int:
    """The arguments of this call."""
    return _answer(frame, frame.entry.arguments, out, room)


def _result(frame: Frame, start: int, length: int) -> None:
    """Set what this call returns."""
    frame.output = _take(frame, start, length, OUTPUT_BYTES, "output")


def _fail(frame: Frame, start: int, length: int) -> None:
    """Refuse, with a reason for people. Does not return."""
    reason = _take(frame, start, length, REASON_BYTES, "reason")
    raise failures.ContractReverted(reason.decode("ascii", "backslashreplace"))


def _get(frame: Frame, key: int, key_length: int, out: int, room: int) -> int:
    """The value of a key of this contract, or -1."""
    frame.running.charge(READ_FUEL)
    value = frame.get(_key(frame, key, key_length))
    return ABSENT if value is None else _answer(frame, value, out, room)


def _put(frame: Frame, key: int, key_length: int, value: int, value_length: int) -> None:
    """Set the value of a key of this contract. Whoever sent the transaction lays down the deposit."""
    name, data = _key(frame, key, key_length), _take(frame, value, value_length, VALUE_BYTES, "value")
    frame.running.charge(WRITE_FUEL + WRITE_BYTE_FUEL * (len(name) + len(data)))
    frame.put(name, data)


def _delete(frame: Frame, key: int, key_length: int) -> int:
    """Remove a key of this contract; 1 if it was there. Whoever sent the transaction gets the deposit."""
    name = _key(frame, key, key_length)
    frame.running.charge(WRITE_FUEL)
    return int(frame.delete(name))


def _transfer(frame: Frame, to: int, amount: int) -> None:
    """Pay out of this contract's balance."""
    frame.running.charge(TRANSFER_FUEL)
    frame.transfer(frame.running.read(to, ADDRESS_BYTES), _amount(amount))


def _emit(frame: Frame, topic: int, topic_length: int, data: int, data_length: int) -> None:
    """Tell whoever listens; the topic is printable ASCII without spaces. Stands in the receipt."""
    frame.running.charge(EMIT_FUEL)
    text = _take(frame, topic, topic_length, TOPIC_BYTES, "topic")
    if not text or any(not 0x21 <= byte <= 0x7E for byte in text):
        raise failures.HostLimit("a topic is printable ASCII without spaces", topic=text.hex())
    frame.emit(text, _take(frame, data, data_length, EVENT_BYTES, "event"))


def _verify(frame: Frame, key: int, message: int, length: int, signature: int) -> int:
    """1 if `signature` (64 bytes) over the message under the tag `contract/v1` is of the Ed25519 key (32 bytes)."""
    frame.running.charge(VERIFY_FUEL)
    signer, signed = frame.running.read(key, ADDRESS_BYTES), frame.running.read(signature, SIGNATURE_BYTES)
    try:
        verify(signer, SIGNATURE_DOMAIN, _take(frame, message, length, MESSAGE_BYTES, "message"), signed)
    except BadSignature:
        return 0
    return 1


def _sha256(frame: Frame, start: int, length: int, out: int) -> None:
    """SHA-256 of bytes; 32 bytes are written."""
    digest = sha256(_take(frame, start, length, MESSAGE_BYTES, "message"))
    frame.running.write(out, digest)


def _sender(frame: Frame, out: int) -> None:
    """Write the address (32 bytes) of who calls: an account, or the contract that called this one."""
    frame.running.charge(HOST_FUEL)
    frame.running.write(out, frame.entry.sender)


def _address(frame: Frame, out: int) -> None:
    """Write this contract's own address (32 bytes)."""
    frame.running.charge(HOST_FUEL)
    frame.running.write(out, frame.entry.contract)


def _value(frame: Frame) -> int:
    """What was paid to this contract with this call."""
    frame.running.charge(HOST_FUEL)
    return frame.entry.value


def _height(frame: Frame) -> int:
    """The height of the commit."""
    frame.running.charge(HOST_FUEL)
    return frame.entry.height


def _balance(frame: Frame) -> int:
    """This contract's balance, what was paid with this call included."""
    frame.running.charge(READ_FUEL)
    return frame.balance()


def _call(
    frame: Frame, to: int, method: int, method_length: int, data: int, length: int, amount: int, out: int, room: int
) -> int:
    """Call a method of another contract with arguments and an amount out of this contract's balance; its result."""
    name = _take(frame, method, method_length, KEY_BYTES, "method").decode("ascii", "replace")
    arguments = _take(frame, data, length, MESSAGE_BYTES, "arguments")
    output = frame.call(frame.running.read(to, ADDRESS_BYTES), name, arguments, _amount(amount))
    return _answer(frame, output, out, room)


def _take(frame: Frame, start: int, length: int, limit: int, what: str) -> bytes:
    """Bytes of the contract's memory, paid for."""
    frame.running.charge(HOST_FUEL + BYTE_FUEL * min(length, limit))
    if length > limit:
        raise failures.HostLimit(f"too long: {what}", bytes=length, limit=limit)
    return frame.running.read(start, length)


def _key(frame: Frame, start: int, length: int) -> bytes:
    if length == 0:
        raise failures.HostLimit("a key has at least one byte")
    return _take(frame, start, length, KEY_BYTES, "key")


def _answer(frame: Frame, data: bytes, out: int, room: int) -> int:
    """Write as much of `data` as fits; its whole length."""
    part = data[:room]
    frame.running.charge(HOST_FUEL + BYTE_FUEL * len(part))
    frame.running.write(out, part)
    return len(data)


def _amount(amount: int) -> int:
    if amount > MAXIMUM_MICRO_BLOC:
        raise failures.HostLimit("no such amount", amount=amount)
    return amount


def _signature(text: str) -> Signature:
    """(parameters, results) of a type such as `iiI:i`; i is 32 bits wide, I is 64."""
    parameters, _, results = text.partition(":")
    kinds = {"i": 0x7F, "I": 0x7E}
    return bytes(kinds[letter] for letter in parameters), bytes(kinds[letter] for letter in results)


HOST: Final[Mapping[str, tuple[Signature, Callable[..., int | None]]]] = {
    "args": (_signature("ii:i"), _args),
    "result": (_signature("ii"), _result),
    "fail": (_signature("ii"), _fail),
    "get": (_signature("iiii:i"), _get),
    "put": (_signature("iiii"), _put),
    "delete": (_signature("ii:i"), _delete),
    "transfer": (_signature("iI"), _transfer),
    "emit": (_signature("iiii"), _emit),
    "verify": (_signature("iiii:i"), _verify),
    "sha256": (_signature("iii"), _sha256),
    "sender": (_signature("i"), _sender),
    "address": (_signature("i"), _address),
    "value": (_signature(":I"), _value),
    "height": (_signature(":I"), _height),
    "balance": (_signature(":I"), _balance),
    "call": (_signature("iiiiiIii:i"), _call),
}
SIGNATURES: Final[Mapping[str, Signature]] = {name: signature for name, (signature, _) in HOST.items()}
