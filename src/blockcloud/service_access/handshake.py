"""The authenticated handshake of a link: three messages inside TLS, the same for every kind of link. Sans-IO.

    hello   initiator -> responder   nonce, X25519 key, purpose, target
    reply   responder -> initiator   nonce, X25519 key, Ed25519 key, payload, signature
    finish  initiator -> responder   Ed25519 key, payload, confirmation, signature

Both signatures cover the whole transcript so far and the hash of the server's TLS certificate. TLS proves who holds
the certificate's key, so a man in the middle, who must show a certificate of his own, changes the transcript and is
found out. This is SIGMA-I (Krawczyk, 2003) with TLS as the carrier: `confirmation` is a MAC by the new secret over the
initiator's identity, so that nobody can pass another's Diffie-Hellman share off as his own. The secret is
HKDF-SHA256(X25519, transcript); it never travels. DESIGN section 5.2.

Randomness is an argument: the same arguments give the same messages.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from blockcloud.primitives.codec import Struct, decode, encode
from blockcloud.primitives.errors import Malformed, PeerFault, WrongKey
from blockcloud.primitives.hashes import DIGEST_BYTES, tagged_hash
from blockcloud.primitives.keys import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify
from blockcloud.primitives.limits import NAME_BYTES

HANDSHAKE_MESSAGE_BYTES: Final = 4_096
HANDSHAKE_PAYLOAD_BYTES: Final = 3_072  # a grant has up to 2,048
HANDSHAKE_VERSION: Final = 1
NONCE_BYTES: Final = 32
RANDOMNESS_BYTES: Final = NONCE_BYTES + 32
SECRET_BYTES: Final = 32
PURPOSE_BYTES: Final = 64

_REPLY_DOMAIN = "handshake-reply/v1"
_FINISH_DOMAIN = "handshake-finish/v1"


class UnknownTarget(PeerFault):
    """The responder does not answer for the name or node that was asked for."""

    code = "unknown_target"


class WrongPurpose(PeerFault):
    """The link was opened for another protocol than the one spoken here."""

    code = "wrong_purpose"


class UnsupportedVersion(PeerFault):
    """The peer speaks another version of the handshake."""

    code = "unsupported_version"


class BadConfirmation(PeerFault):
    """The initiator does not hold the secret that its message was made for."""

    code = "bad_confirmation"


class Hello(Struct, frozen=True):
    """First message: what the initiator wants, and its half of the key agreement."""

    version: int
    nonce: bytes
    exchange: bytes
    purpose: str
    target: str


class Reply(Struct, frozen=True):
    """Second message: the responder's half and its proof of identity."""

    nonce: bytes
    exchange: bytes
    key: bytes
    payload: bytes
    signature: bytes


class Finish(Struct, frozen=True):
    """Third message: the initiator's proof of identity."""

    key: bytes
    payload: bytes
    confirmation: bytes
    signature: bytes


def _check_lengths(*fields: tuple[bytes, int]) -> None:
    for value, length in fields:
        if len(value) != length:
            raise Malformed("a field of a handshake message has the wrong length", bytes=len(value), expected=length)


def _check_payload(payload: bytes) -> None:
    if len(payload) > HANDSHAKE_PAYLOAD_BYTES:
        raise Malformed("handshake payload is too long", bytes=len(payload), limit=HANDSHAKE_PAYLOAD_BYTES)


def _split(randomness: bytes) -> tuple[bytes, X25519PrivateKey]:
    if len(randomness) != RANDOMNESS_BYTES:
        raise ValueError(f"a handshake needs {RANDOMNESS_BYTES} random bytes")
    return randomness[:NONCE_BYTES], X25519PrivateKey.from_private_bytes(randomness[NONCE_BYTES:])


def _agree(private: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a small-order point: the result would not depend on our half
        raise Malformed("the peer's X25519 key is not usable") from None


def _reply_transcript(
    hello: bytes, nonce: bytes, exchange: bytes, key: bytes, payload: bytes, certificate: bytes
) -> bytes:
    return tagged_hash("handshake-transcript/v1", encode((hello, nonce, exchange, key, payload, certificate)))


def _finish_transcript(after_reply: bytes, reply_signature: bytes, key: bytes, payload: bytes) -> bytes:
    return tagged_hash("handshake-transcript/v1", encode((after_reply, reply_signature, key, payload)))


def _derive(shared: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    """(secret of the link, MAC key of the confirmation), bound to everything that was said."""
    keys = HKDF(SHA256(), 2 * SECRET_BYTES, salt=transcript, info=b"blockcloud/handshake-secret/v1").derive(shared)
    return keys[:SECRET_BYTES], keys[SECRET_BYTES:]


def _confirm(mac_key: bytes, key: bytes) -> bytes:
    return hmac.digest(mac_key, b"confirm" + key, "sha256")


class Initiator:
    """The dialling side. `hello()`, then `receive(reply, certificate_hash)`, whose result is the finish message.

    `target` is the name (or node) asked for. `expected` are the keys that may answer, None accepts any (the caller
    then decides by `peer_key`). After `receive`: `peer_key`, `peer_payload` and `secret` (32 bytes).
    """

    def __init__(
        self,
        *,
        key: SigningKey,
        purpose: str,
        target: str,
        expected: Collection[bytes] | None,
        randomness: bytes,
        payload: bytes = b"",
    ) -> None:
        _check_payload(payload)
        nonce, self._private = _split(randomness)
        self._key = key
        self._payload = payload
        self._expected = expected
        exchange = self._private.public_key().public_bytes_raw()
        self._hello = encode(Hello(HANDSHAKE_VERSION, nonce, exchange, purpose, target))
        self.peer_key = b""
        self.peer_payload = b""
        self.secret = b""

    def hello(self) -> bytes:
        """The first message."""
        return self._hello

    def receive(self, reply: bytes, certificate_hash: bytes) -> bytes:
        """Check the responder's message; the finish message to send. Data may follow it at once.

        `certificate_hash` is the SHA-256 of the certificate that the TLS peer of this link showed. Raises WrongKey
        (another identity), BadSignature (impostor or man in the middle), Malformed, NonCanonical, Oversized.
        """
        message = decode(reply, Reply, limit=HANDSHAKE_MESSAGE_BYTES)
        _check_lengths(
            (message.nonce, NONCE_BYTES),
            (message.exchange, 32),
            (message.key, PUBLIC_KEY_BYTES),
            (message.signature, SIGNATURE_BYTES),
            (certificate_hash, DIGEST_BYTES),
        )
        _check_payload(message.payload)
        if self._expected is not None and message.key not in self._expected:
            raise WrongKey("the peer answers with a key that was not expected", key=message.key.hex()[:16])
        after_reply = _reply_transcript(
            self._hello, message.nonce, message.exchange, message.key, message.payload, certificate_hash
        )
        verify(message.key, _REPLY_DOMAIN, after_reply, message.signature)
        transcript = _finish_transcript(after_reply, message.signature, self._key.public, self._payload)
        self.secret, mac_key = _derive(_agree(self._private, message.exchange), transcript)
        self.peer_key, self.peer_payload = message.key, message.payload
        signature = self._key.sign(_FINISH_DOMAIN, transcript)
        return encode(Finish(self._key.public, self._payload, _confirm(mac_key, self._key.public), signature))


class Responder:
    """The accepting side. `receive_hello(hello)` gives the reply, `receive_finish(finish)` ends the handshake.

    `keys` gives the signing key for a target, None where we do not answer for it. `payload` goes into the reply, so it
    is seen by whoever holds the link, authenticated or not. After `receive_finish`: `peer_key`, `peer_payload`,
    `secret`, `target`.
    """

    def __init__(
        self,
        *,
        keys: Callable[[str], SigningKey | None],
        purpose: str,
        certificate_hash: bytes,
        randomness: bytes,
        payload: bytes = b"",
    ) -> None:
        _check_payload(payload)
        self._nonce, self._private = _split(randomness)
        self._keys = keys
        self._purpose = purpose
        self._certificate_hash = certificate_hash
        self._payload = payload
        self._after_reply = b""
        self._signature = b""
        self._peer_exchange = b""
        self._shared = b""
        self.target = ""
        self.peer_key = b""
        self.peer_payload = b""
        self.secret = b""

    def receive_hello(self, hello: bytes) -> bytes:
        """The reply to a first message.

        Raises UnsupportedVersion, WrongPurpose, UnknownTarget, Malformed, NonCanonical, Oversized.
        """
        message = decode(hello, Hello, limit=HANDSHAKE_MESSAGE_BYTES)
        if message.version != HANDSHAKE_VERSION:
            raise UnsupportedVersion("the peer speaks another handshake version", version=message.version)
        _check_lengths((message.nonce, NONCE_BYTES), (message.exchange, 32))
        if len(message.purpose) > PURPOSE_BYTES or len(message.target) > NAME_BYTES:
            raise Malformed("purpose or target of the handshake is too long")
        if message.purpose != self._purpose:
            raise WrongPurpose("the link was opened for another purpose", purpose=message.purpose)
        key = self._keys(message.target)
        if key is None:
            raise UnknownTarget("nobody answers here for that name", target=message.target)
        self.target = message.target
        self._peer_exchange = message.exchange
        exchange = self._private.public_key().public_bytes_raw()
        self._after_reply = _reply_transcript(
            hello, self._nonce, exchange, key.public, self._payload, self._certificate_hash
        )
        self._signature = key.sign(_REPLY_DOMAIN, self._after_reply)
        return encode(Reply(self._nonce, exchange, key.public, self._payload, self._signature))

    def agree(self) -> None:
        """Compute the shared secret, while the reply is on its way; `receive_finish` does it otherwise. Raises
        Malformed."""
        if not self._shared:
            self._shared = _agree(self._private, self._peer_exchange)

    def receive_finish(self, finish: bytes) -> None:
        """Check the initiator's identity. Raises BadSignature, BadConfirmation, Malformed, NonCanonical, Oversized."""
        if not self._after_reply:
            raise Malformed("finish before hello")
        message = decode(finish, Finish, limit=HANDSHAKE_MESSAGE_BYTES)
        _check_lengths(
            (message.key, PUBLIC_KEY_BYTES), (message.confirmation, DIGEST_BYTES), (message.signature, SIGNATURE_BYTES)
        )
        _check_payload(message.payload)
        transcript = _finish_transcript(self._after_reply, self._signature, message.key, message.payload)
        verify(message.key, _FINISH_DOMAIN, transcript, message.signature)
        self.agree()
        secret, mac_key = _derive(self._shared, transcript)
        if not hmac.compare_digest(_confirm(mac_key, message.key), message.confirmation):
            raise BadConfirmation("the initiator does not hold the secret of this handshake")
        self.secret, self.peer_key, self.peer_payload = secret, message.key, message.payload
