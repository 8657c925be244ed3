"""Objects by name in a commercial store (S3 and those that speak it) or in a folder: one port, through `obstore`.

Nothing that comes from a store is trusted: whoever reads checks the hash. Every call ends within its time, and fails
with a class for each reason. Messages of the library are not passed on, because they may quote requests.

A folder gets whole files only: the library writes beside the name and renames, and the file and its name are on the
medium when `put` returns. Credentials are read as other programs of such stores read them: from the environment, else
from the shared credentials file (AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE), else by the library from the machine.
"""

from __future__ import annotations

import asyncio
import configparser
import errno
import os
import re
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import LocalStore, S3Store

from blockcloud.node.routing_config import FILE_SCHEME, S3_SCHEME, RoutingConfig
from blockcloud.primitives.errors import BadConfiguration, BlockCloudError, Oversized
from blockcloud.primitives.files import sync_folder
from blockcloud.primitives.limits import SERVICE_FILE_BYTES

RETRIES: Final = 2
DEFAULT_PROFILE: Final = "default"
_STAGED: Final = re.compile(r"[0-9a-f]{64}#\d+", re.ASCII)  # what a crash leaves of a file that was being written
_FULL: Final = re.compile(rf"os error ({errno.ENOSPC}|{errno.EDQUOT})\b", re.ASCII)

T = TypeVar("T")


class StoreFailed(BlockCloudError):
    """The store for service files did not do what it was asked."""

    code = "store_failed"
    hint = "Nothing is lost: files wait here and peers hold copies. See the node's status and the store's own."


class StoreTimedOut(StoreFailed):
    """The store did not answer in time."""

    code = "store_timed_out"


class StoreRefused(StoreFailed):
    """The store does not accept our credentials, or does not allow this."""

    code = "store_refused"
    hint = "Check the credentials that the node finds (environment, shared credentials file) and the bucket's policy."


class StoreFull(StoreFailed):
    """The disk of the store is full."""

    code = "store_full"
    hint = "Make room where the store is; what waits is written then."


class ObjectMissing(StoreFailed):
    """The store has no such object."""

    code = "object_missing"


class ObjectStore:
    """Whole objects of at most SERVICE_FILE_BYTES by a name of letters and digits. Belongs to a running loop."""

    def __init__(self, store: Any, timeout_ms: int, folder: Path | None = None) -> None:
        self._store, self._timeout_s, self._folder = store, timeout_ms / 1_000, folder

    async def put(self, name: str, data: bytes) -> None:
        """Store an object, in place of another of that name. Raises StoreFailed."""
        await self._call(obstore.put_async(self._store, name, data, use_multipart=False))
        if self._folder is not None:
            await self._call(asyncio.to_thread(_sync, self._folder / name))

    async def get(self, name: str) -> bytes:
        """The object of this name. Raises ObjectMissing, Oversized or another StoreFailed."""
        return await self._call(self._read(name))

    async def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error. Raises StoreFailed."""
        try:
            await self._call(obstore.delete_async(self._store, name))
        except ObjectMissing:
            return

    async def _read(self, name: str) -> bytes:
        result = await obstore.get_async(self._store, name)
        size = int(result.meta["size"])
        if size > SERVICE_FILE_BYTES:
            raise Oversized("an object is larger than a service file can be", bytes=size, limit=SERVICE_FILE_BYTES)
        data = bytearray()
        async for chunk in result.stream(min_chunk_size=1):
            data += chunk
            if len(data) > SERVICE_FILE_BYTES:
                raise Oversized("an object is larger than it said", limit=SERVICE_FILE_BYTES)
        return bytes(data)

    async def _call(self, work: Awaitable[T]) -> T:
        """The result of `work`, or why there is none, without what the library says about it."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError:
            raise StoreTimedOut(seconds=self._timeout_s) from None
        except (exceptions.NotFoundError, FileNotFoundError):
            raise ObjectMissing from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError):
            raise StoreRefused from None
        except (exceptions.BaseError, OSError) as error:
            text = str(error)
            if _FULL.search(text) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                raise StoreFull from None
            if "timed out" in text:
                raise StoreTimedOut(seconds=self._timeout_s) from None
            raise StoreFailed(kind=type(error).__name__) from None


def open_store(config: RoutingConfig, home: Path, owner: str, environment: Mapping[str, str]) -> ObjectStore | None:
    """The store that `config` names, None if it names none. `owner` is the part of it that is this node's alone, so
    that several nodes may share a bucket. Raises BadConfiguration."""
    if not config.store:
        return None
    parts = urlsplit(config.store)
    if parts.scheme == S3_SCHEME:
        return ObjectStore(_s3(config, owner, environment), config.store_timeout_ms)
    folder = Path(unquote(parts.path)) if parts.scheme == FILE_SCHEME else home / config.store
    folder = folder / owner
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            if _STAGED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        return ObjectStore(LocalStore(folder), config.store_timeout_ms, folder)
    except (OSError, exceptions.BaseError) as error:
        raise BadConfiguration(f"cannot use the folder of the store: {error}", folder=str(folder)) from None


def read_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Access key, secret and perhaps token; empty if neither the environment nor the shared file has them.

    Raises BadConfiguration.
    """
    if "AWS_ACCESS_KEY_ID" in environment:
        return {}  # the library takes what it finds in the environment
    default = Path(environment.get("HOME", "~")).expanduser() / ".aws" / "credentials"
    path = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE") or default)
    profile = environment.get("AWS_PROFILE") or DEFAULT_PROFILE
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error):  # whose text may quote a line with a secret
        raise BadConfiguration("the shared credentials file cannot be read", path=str(path)) from None
    if profile not in parser:
        if profile == DEFAULT_PROFILE:
            return {}
        raise BadConfiguration("the shared credentials file has no such profile", path=str(path), profile=profile)
    known = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
    }
    return {option: parser[profile][key] for key, option in known.items() if key in parser[profile]}


def _s3(config: RoutingConfig, owner: str, environment: Mapping[str, str]) -> S3Store:
    parts = urlsplit(config.store)
    prefix = "/".join(part for part in (parts.path.strip("/"), owner) if part)
    options: dict[str, Any] = dict(read_credentials(environment))
    if config.store_endpoint:
        options["endpoint"] = config.store_endpoint
        options["virtual_hosted_style_request"] = False
    if config.store_region:
        options["region"] = config.store_region
    # Ours ends first (`ObjectStore._call`), and says what it was.
    timeout = timedelta(milliseconds=2 * config.store_timeout_ms)
    try:
        return S3Store(
            parts.netloc,
            prefix=prefix,
            client_options={"timeout": timeout, "allow_http": config.store_endpoint.startswith("http://")},
            retry_config={"max_retries": RETRIES, "retry_timeout": timeout},
            **options,
        )
    except (exceptions.BaseError, ValueError):  # whose text may quote an option
        raise BadConfiguration("the store cannot be set up with these options", store=config.store) from None


def _sync(path: Path) -> None:
    """Put a file and its name on the medium."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)
