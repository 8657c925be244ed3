"""Keys: files that only their owner may read, one verifier with known verdicts."""

import os
from pathlib import Path

import pytest

from blockcloud.primitives import keys
from blockcloud.primitives.errors import BadConfiguration, BadSignature
from blockcloud.primitives.keys import SigningKey, verify


def test_the_library_agrees_with_the_protocol() -> None:
    keys.self_test()


def test_a_library_that_accepts_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "verify_raw", lambda *_: True)
    with pytest.raises(BadConfiguration):
        keys.self_test()


def test_a_signature_is_bound_to_message_key_and_domain() -> None:
    key, other = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    signature = key.sign("a/v1", b"message")
    verify(key.public, "a/v1", b"message", signature)
    for public, domain, message, signed in (
        (other.public, "a/v1", b"message", signature),
        (key.public, "b/v1", b"message", signature),
        (key.public, "a/v1", b"massage", signature),
        (key.public, "a/v1", b"message", signature[:-1]),
        (key.public[:-1], "a/v1", b"message", signature),
    ):
        with pytest.raises(BadSignature):
            verify(public, domain, message, signed)


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    key, path = SigningKey.generate(), tmp_path / "keys" / "owner.pem"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert SigningKey.load(path).public == key.public
    with pytest.raises(BadConfiguration, match="exists"):
        SigningKey.generate().save(path)
    os.chmod(path, 0o644)
    with pytest.raises(BadConfiguration, match="0600"):
        SigningKey.load(path)


def test_other_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(BadConfiguration, match="No such file"):
        SigningKey.load(path)
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(BadConfiguration, match="PKCS#8"):
        SigningKey.load(path)


def test_a_key_does_not_show_itself() -> None:
    seed = bytes(range(32))
    assert seed.hex()[:8] not in repr(SigningKey(seed))
