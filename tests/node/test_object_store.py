"""Objects in a real S3 server and in a folder: what was put comes back, and every failure has its own class."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from blockcloud.node.object_store import (
    ObjectMissing,
    ObjectStore,
    StoreFailed,
    StoreRefused,
    StoreTimedOut,
    open_store,
    read_credentials,
)
from blockcloud.node.routing_config import RoutingConfig
from blockcloud.primitives.errors import BadConfiguration, Oversized
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from tests.node.s3_server import REGION, S3Server, s3_server

NAME: Final = "ab" * 32
OWNER: Final = "00ff"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server("files") as running:
        yield running


def credentials(folder: Path, server: S3Server, **changes: str) -> dict[str, str]:
    """The environment of a node whose credentials are in a file, as other programs expect it."""
    values = {"aws_access_key_id": server.access_key, "aws_secret_access_key": server.secret, **changes}
    path = folder / "credentials"
    path.write_text("[other]\n" + "".join(f"{key} = {value}\n" for key, value in values.items()), encoding="utf-8")
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path), "AWS_PROFILE": "other"}


def s3_store(folder: Path, server: S3Server, environment: dict[str, str], timeout_ms: int = 5_000) -> ObjectStore:
    config = RoutingConfig(
        store="s3://files/some/prefix", store_endpoint=server.url, store_region=REGION, store_timeout_ms=timeout_ms
    )
    store = open_store(config, folder, OWNER, environment)
    assert store is not None
    return store


def folder_store(folder: Path) -> ObjectStore:
    store = open_store(RoutingConfig(store="objects"), folder, OWNER, {})
    assert store is not None
    return store


@pytest.fixture(params=["s3", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: S3Server) -> ObjectStore:
    if request.param == "folder":
        return folder_store(tmp_path)
    return s3_store(tmp_path, server, credentials(tmp_path, server))


async def test_an_object_is_put_replaced_and_deleted(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        await store.get(NAME)
    await store.put(NAME, b"first")
    await store.put(NAME, b"second")
    assert await store.get(NAME) == b"second"
    await store.put(NAME[::-1], b"")
    assert await store.get(NAME[::-1]) == b""
    await store.delete(NAME)
    await store.delete(NAME)
    with pytest.raises(ObjectMissing):
        await store.get(NAME)


async def test_an_object_larger_than_a_service_file_is_not_read(store: ObjectStore) -> None:
    await store.put(NAME, bytes(SERVICE_FILE_BYTES))
    assert len(await store.get(NAME)) == SERVICE_FILE_BYTES
    await store.put(NAME, bytes(SERVICE_FILE_BYTES + 1))
    with pytest.raises(Oversized):
        await store.get(NAME)


async def test_wrong_credentials_are_refused_and_no_secret_is_said(
    tmp_path: Path, server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = credentials(tmp_path, server, aws_secret_access_key="not-the-secret")
    store = s3_store(tmp_path, server, wrong)
    for work in (store.put(NAME, b"x"), store.get(NAME)):
        with pytest.raises(StoreRefused) as refused:
            await work
        said = f"{refused.value} {refused.value!r} {refused.value.__cause__} {caplog.text}"
        assert refused.value.__suppress_context__
        assert "not-the-secret" not in said
        assert server.access_key not in said


async def test_a_server_that_hangs_or_is_gone_ends_in_a_typed_error(tmp_path: Path) -> None:
    with s3_server("files") as server:
        store = s3_store(tmp_path, server, credentials(tmp_path, server), timeout_ms=500)
        await store.put(NAME, b"x")
        server.pause()
        with pytest.raises(StoreTimedOut):
            await store.get(NAME)
        server.go_on()
        server.process.kill()
        server.process.wait()
        with pytest.raises(StoreFailed):
            await store.put(NAME, b"x")


def test_credentials_are_found_where_other_programs_look(tmp_path: Path) -> None:
    file = tmp_path / ".aws" / "credentials"
    home = {"HOME": str(tmp_path)}
    assert read_credentials(home) == {}
    file.parent.mkdir()
    file.write_text("[default]\naws_access_key_id=A\naws_secret_access_key=B%x\naws_session_token=C\n[p]\nregion=x\n")
    assert read_credentials(home) == {"access_key_id": "A", "secret_access_key": "B%x", "session_token": "C"}
    assert read_credentials(home | {"AWS_ACCESS_KEY_ID": "of the environment"}) == {}
    assert read_credentials(home | {"AWS_PROFILE": "p"}) == {}
    with pytest.raises(BadConfiguration, match="no such profile"):
        read_credentials(home | {"AWS_PROFILE": "q"})
    file.write_text("[default]\naws_secret_access_key_without_value_SECRET\n")
    with pytest.raises(BadConfiguration) as wrong:
        read_credentials(home)
    assert "SECRET" not in f"{wrong.value}{wrong.value.__cause__}"


def test_a_folder_that_cannot_be_used_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file")
    with pytest.raises(BadConfiguration, match="folder of the store"):
        folder_store(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    url = RoutingConfig(store=(tmp_path / "elsewhere").as_uri())
    assert open_store(url, tmp_path / "home", OWNER, {}) is not None
    assert (tmp_path / "elsewhere" / OWNER).stat().st_mode & 0o077 == 0


WRITER: Final = """
import asyncio, hashlib, sys
from pathlib import Path
from blockcloud.node.object_store import StoreFull, open_store
from blockcloud.node.routing_config import RoutingConfig

async def main():
    store = open_store(RoutingConfig(store="objects"), Path(sys.argv[1]), "00ff", {})
    for number in range(int(sys.argv[2])):
        data = b"%d" % number * 3_000
        try:
            await store.put(hashlib.sha256(data).hexdigest(), data)
        except StoreFull as full:
            print(full.code, flush=True)
            return
        print(number, flush=True)

asyncio.run(main())
"""


def whole_objects(folder: Path) -> int:
    """How many objects there are, each of which is what its name says."""
    found = [path for path in (folder / "objects" / OWNER).iterdir() if "#" not in path.name]
    for path in found:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    return len(found)


async def test_a_crash_leaves_no_torn_object(tmp_path: Path) -> None:
    for stop_at in (3, 40):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), "100000"], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            for _ in range(stop_at):
                writer.stdout.readline()
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        assert whole_objects(tmp_path) >= stop_at
    staged = tmp_path / "objects" / OWNER / f"{NAME}#1"
    staged.write_bytes(b"half of an obj")
    folder_store(tmp_path)
    assert not staged.exists()


def test_a_full_disk_is_said_and_leaves_whole_objects(tmp_path: Path) -> None:
    mounted = f'mount -t tmpfs -o size=200k none "{tmp_path}" && "$@" && cp -r "{tmp_path}/objects" "$SAVED"'
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    saved.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here, so no small disk can be mounted")
    done = subprocess.run(
        [*inside, "sh", "-c", mounted, "sh", sys.executable, "-c", WRITER, str(tmp_path), "100"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "SAVED": str(saved)},
    )
    assert done.stdout.splitlines()[-1] == "store_full"
    assert whole_objects(saved) == len(done.stdout.splitlines()) - 1 > 3
