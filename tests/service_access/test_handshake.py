"""The handshake: both sides agree, and every adversary on the way is refused with a typed error."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.codec import decode, encode
from blockcloud.primitives.errors import BadSignature, Malformed, NonCanonical, Oversized, PeerFault, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.handshake import (
    HANDSHAKE_MESSAGE_BYTES,
    BadConfirmation,
    Finish,
    Hello,
    Initiator,
    Reply,
    Responder,
    UnknownTarget,
    UnsupportedVersion,
    WrongPurpose,
)

CONSUMER, PROVIDER, STRANGER = (SigningKey(bytes([seed]) * 32) for seed in (1, 2, 3))
CERTIFICATE, OTHER_CERTIFICATE = b"c" * 32, b"o" * 32
TARGET = "thermo.kitchen.acme"


def initiator(seed: int = 1, key: SigningKey = CONSUMER, **values: object) -> Initiator:
    arguments: dict[str, object] = {
        "purpose": "session/v1",
        "target": TARGET,
        "expected": [PROVIDER.public],
        "payload": b"from the initiator",
        **values,
    }
    return Initiator(key=key, randomness=bytes([seed]) * 64, **arguments)  # type: ignore[arg-type]


def responder(seed: int = 100, key: SigningKey = PROVIDER, certificate: bytes = CERTIFICATE) -> Responder:
    def keys(target: str) -> SigningKey | None:
        return key if target == TARGET else None

    return Responder(
        keys=keys,
        purpose="session/v1",
        certificate_hash=certificate,
        randomness=bytes([seed]) * 64,
        payload=b"from the responder",
    )


def test_both_sides_agree() -> None:
    one, two = initiator(), responder()
    reply = two.receive_hello(one.hello())
    finish = one.receive(reply, CERTIFICATE)
    two.receive_finish(finish)
    assert one.secret == two.secret
    assert len(one.secret) == 32
    assert (one.peer_key, two.peer_key) == (PROVIDER.public, CONSUMER.public)
    assert (one.peer_payload, two.peer_payload) == (b"from the responder", b"from the initiator")
    assert two.target == TARGET
    assert max(map(len, (one.hello(), reply, finish))) < 2_048


def test_secrets_differ_by_randomness_and_identity() -> None:
    secrets = set()
    for seed, key in ((1, CONSUMER), (4, CONSUMER), (1, STRANGER)):
        one, two = initiator(seed, key), responder()
        two.receive_finish(one.receive(two.receive_hello(one.hello()), CERTIFICATE))
        secrets.add(one.secret)
    assert len(secrets) == 3


def test_impostor_with_a_key_of_his_own() -> None:
    one = initiator()
    with pytest.raises(WrongKey):
        one.receive(responder(key=STRANGER).receive_hello(one.hello()), CERTIFICATE)
    assert one.secret == b""


def test_impostor_who_shows_the_right_key_without_having_it() -> None:
    one = initiator()
    reply = decode(responder(key=STRANGER).receive_hello(one.hello()), Reply, limit=2_048)
    lie = Reply(reply.nonce, reply.exchange, PROVIDER.public, reply.payload, reply.signature)
    with pytest.raises(BadSignature):
        one.receive(encode(lie), CERTIFICATE)


def test_man_in_the_middle_has_another_certificate() -> None:
    one, two = initiator(), responder(certificate=OTHER_CERTIFICATE)
    with pytest.raises(BadSignature):
        one.receive(two.receive_hello(one.hello()), CERTIFICATE)


def test_finish_relayed_over_another_certificate() -> None:
    # The initiator speaks with a man in the middle whose certificate it sees; he plays the responder with its own key
    # behind another one, so the responder's transcript differs.
    one, near, far = initiator(), responder(certificate=CERTIFICATE), responder(certificate=OTHER_CERTIFICATE)
    far.receive_hello(one.hello())
    with pytest.raises(BadSignature):
        far.receive_finish(one.receive(near.receive_hello(one.hello()), CERTIFICATE))


def test_replays() -> None:
    one, two = initiator(), responder()
    finish = one.receive(two.receive_hello(one.hello()), CERTIFICATE)
    again = responder(seed=101)
    again.receive_hello(one.hello())
    with pytest.raises(BadSignature):  # a recorded hello and finish against fresh randomness
        again.receive_finish(finish)
    with pytest.raises(BadSignature):  # a recorded reply to a fresh hello
        initiator(seed=9).receive(responder().receive_hello(one.hello()), CERTIFICATE)


def test_someone_elses_share_is_not_ones_own() -> None:
    # A stranger signs the whole transcript with his own key, but did not make the Diffie-Hellman share.
    one, two = initiator(), responder()
    reply = two.receive_hello(one.hello())
    honest = decode(one.receive(reply, CERTIFICATE), Finish, limit=2_048)
    stolen = initiator(key=STRANGER)
    forged = decode(stolen.receive(reply, CERTIFICATE), Finish, limit=2_048)
    with pytest.raises(BadConfirmation):
        two.receive_finish(encode(Finish(forged.key, forged.payload, honest.confirmation, forged.signature)))


def test_agreeing_early_changes_nothing_and_a_small_order_share_is_found_then() -> None:
    secrets = []
    for early in (True, False):
        one, two = initiator(), responder()
        reply = two.receive_hello(one.hello())
        if early:
            two.agree()
        two.receive_finish(one.receive(reply, CERTIFICATE))
        assert one.secret == two.secret
        secrets.append(two.secret)
    assert secrets[0] == secrets[1]
    two = responder()
    two.receive_hello(encode(Hello(1, bytes(32), bytes(32), "session/v1", TARGET)))
    with pytest.raises(Malformed):
        two.agree()


@pytest.mark.parametrize(
    ("hello", "error"),
    [
        (Hello(1, bytes(32), bytes([9]) * 32, "session/v1", "other.name"), UnknownTarget),
        (Hello(1, bytes(32), bytes([9]) * 32, "validators/v1", TARGET), WrongPurpose),
        (Hello(2, bytes(32), bytes([9]) * 32, "session/v1", TARGET), UnsupportedVersion),
        (Hello(1, bytes(31), bytes([9]) * 32, "session/v1", TARGET), Malformed),
        (Hello(1, bytes(32), bytes([9]) * 33, "session/v1", TARGET), Malformed),
        (Hello(1, bytes(32), bytes([9]) * 32, "session/v1", "x" * 254), Malformed),
    ],
)
def test_bad_hello(hello: Hello, error: type[PeerFault]) -> None:
    with pytest.raises(error):
        responder().receive_hello(encode(hello))


def test_unusable_exchange_key() -> None:
    two = responder()
    two.receive_hello(encode(Hello(1, bytes(32), bytes(32), "session/v1", TARGET)))
    finish = Finish(CONSUMER.public, b"", bytes(32), bytes(64))
    with pytest.raises(BadSignature):
        two.receive_finish(encode(finish))
    one = initiator(expected=None)
    reply = decode(responder().receive_hello(one.hello()), Reply, limit=2_048)
    weak = Reply(reply.nonce, bytes(32), reply.key, reply.payload, reply.signature)
    with pytest.raises(BadSignature):
        one.receive(encode(weak), CERTIFICATE)


def test_oversized_and_not_canonical() -> None:
    with pytest.raises(Oversized):
        responder().receive_hello(bytes(HANDSHAKE_MESSAGE_BYTES + 1))
    hello = initiator().hello()
    assert hello[1] == 1  # the version, as a fixint; the same number in two bytes is another encoding of it
    with pytest.raises(NonCanonical):
        responder().receive_hello(hello[:1] + b"\xcc\x01" + hello[2:])
    with pytest.raises(Malformed):
        responder().receive_finish(encode(Finish(CONSUMER.public, b"", bytes(32), bytes(64))))


def _steps() -> tuple[tuple[bytes, Callable[[bytes], object]], ...]:
    """Every message, with what receives it."""
    one, two = initiator(), responder()
    reply = two.receive_hello(one.hello())
    finish = initiator().receive(reply, CERTIFICATE)
    return (
        (one.hello(), lambda data: responder().receive_hello(data)),
        (reply, lambda data: one.receive(data, CERTIFICATE)),
        (finish, two.receive_finish),
    )


@given(step=st.integers(1, 2), data=st.data())
def test_any_changed_or_truncated_message_is_refused(step: int, data: st.DataObject) -> None:
    message, receive = _steps()[step]
    if data.draw(st.booleans()):
        changed = message[: data.draw(st.integers(0, len(message) - 1))]
    else:
        index, bit = data.draw(st.integers(0, len(message) - 1)), data.draw(st.integers(0, 7))
        changed = message[:index] + bytes([message[index] ^ 1 << bit]) + message[index + 1 :]
    with pytest.raises(PeerFault):
        receive(changed)


@given(junk=st.binary(max_size=300), step=st.integers(0, 2))
def test_garbage_is_refused(junk: bytes, step: int) -> None:
    _, receive = _steps()[step]
    with pytest.raises(PeerFault):
        receive(junk)
