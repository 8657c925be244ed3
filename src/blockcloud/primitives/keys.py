"""Ed25519 keys and the one verifier of the system.

Every node must agree on which signatures are valid, and Ed25519 libraries differ on edge cases (small-order points,
non-canonical scalars). So there is one verifier, libsodium through PyNaCl, and `self_test` compares its verdicts on
edge cases with the ones this protocol version was defined with (Chalkias et al., "Taming the many EdDSAs", 2020).
`cryptography` is used for key files (PKCS#8) only.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from blockcloud.primitives.errors import BadConfiguration, BadSignature
from blockcloud.primitives.files import sync_folder
from blockcloud.primitives.hashes import tagged

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEED_BYTES = 32
KEY_FILE_BYTES = 4_096


def verify_raw(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` is by `public_key` (32 bytes). Releases the GIL while it computes."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except CryptoError:
        return False
    return True


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> None:
    """Raise BadSignature unless `signature` over `message` under the tag `domain` is by `public_key`."""
    if not verify_raw(public_key, tagged(domain, message), signature):
        raise BadSignature("signature does not verify", domain=domain, key=public_key.hex()[:16])


class SigningKey:
    """A private key. It signs under a domain tag only, and never shows itself in a representation."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadConfiguration("a key seed has 32 bytes", bytes=len(seed))
        self.public, self._secret = crypto_sign_seed_keypair(seed)

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key in a PKCS#8 PEM file that only its owner may read. Raises BadConfiguration."""
        try:
            if path.stat().st_mode & 0o077:
                raise BadConfiguration("key file may be read by others; set its mode to 0600", path=str(path))
            with path.open("rb") as file:
                pem = file.read(KEY_FILE_BYTES)
        except OSError as error:
            raise BadConfiguration(f"cannot read key file: {error.strerror}", path=str(path)) from None
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise BadConfiguration("not an unencrypted PKCS#8 PEM file", path=str(path)) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadConfiguration("not an Ed25519 key", path=str(path))
        return cls(key.private_bytes_raw())

    def save(self, path: Path) -> None:
        """Write the key, durably, as PKCS#8 PEM with mode 0600; refuses to overwrite. Raises BadConfiguration."""
        key = Ed25519PrivateKey.from_private_bytes(self._secret[:SEED_BYTES])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise BadConfiguration("key file exists already", path=str(path)) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)

    def sign(self, domain: str, message: bytes) -> bytes:
        """Signature (64 bytes) over `message` under the tag `domain`."""
        return crypto_sign(tagged(domain, message), self._secret)[:SIGNATURE_BYTES]

    def sign_standard(self, message: bytes) -> bytes:
        """Signature (64 bytes) over a structure of a published standard, which must separate its own domain (COSE)."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def seed(self) -> bytes:
        """The secret itself (32 bytes), for a library that must sign a published format by itself (Biscuit)."""
        return self._secret[:SEED_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()[:16]}...)"


# (public key, message, signature, verdict): RFC 8032 test 1, then edge cases on which implementations differ.
_VECTORS: tuple[tuple[str, str, str, bool], ...] = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        True,
    ),
    # The same signature with S + L in place of S: must be refused, or signatures are malleable.
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901554c8c7872aa064e049dbb3013fbf29380d25bf5f0595bbe24655141438e7a101b",
        False,
    ),
    # Small-order public key (the identity) with S = 0: "signs" any message where it is not refused.
    ("01" + "00" * 31, "", "01" + "00" * 63, False),
    # Small-order public key of order 8.
    ("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "00", "01" + "00" * 63, False),
    # Non-canonical encoding of the identity as public key.
    ("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "", "01" + "00" * 63, False),
)


def self_test() -> None:
    """Raise BadConfiguration if this library's verdicts differ from the protocol's. Run at the start of every node."""
    for public, message, signature, verdict in _VECTORS:
        if verify_raw(bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)) is not verdict:
            raise BadConfiguration("the signature library disagrees with the protocol's edge cases", key=public[:16])
