"""Snapshots in files: one folder for each, with all chunks in one file and an index to them.

    <home>/snapshots/era-<number>/manifest    canonical bytes of the manifest
                                  chunks      the chunks, in the order in which they came
                                  index       for each part, in the manifest's order: offset and length (8 bytes each)

A folder is made under another name and gets its own when all of it is on the medium, so it is whole or not there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from blockcloud.primitives.errors import StorageFault
from blockcloud.primitives.files import sync_folder
from blockcloud.service_chain.snapshot import MANIFEST_BYTES, manifest_digest

KEPT: Final = 2
ERA_PREFIX: Final = "era-"
PARTIAL_PREFIX: Final = "partial-"
_PLACE = Struct(">QQ")


class StoredSnapshot:
    """A whole snapshot on disk. `manifest` are its canonical bytes. Reading may come from any thread."""

    def __init__(self, folder: Path) -> None:
        """Raises StorageFault."""
        self.folder = folder
        self.era = int(folder.name.removeprefix(ERA_PREFIX))
        try:
            self.manifest = (folder / "manifest").read_bytes()
            self._index = (folder / "index").read_bytes()
        except OSError as error:
            raise StorageFault(f"cannot read a snapshot: {error.strerror}", path=str(folder)) from None
        if len(self.manifest) > MANIFEST_BYTES or len(self._index) % _PLACE.size:
            raise StorageFault("a stored snapshot is damaged", path=str(folder))
        self.digest = manifest_digest(self.manifest)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self._index) // _PLACE.size

    def chunk(self, number: int) -> bytes | None:
        """Chunk `number`, from 0; None if there is none or it cannot be read."""
        if not 0 <= number < self.chunks:
            return None
        offset, length = _PLACE.unpack_from(self._index, number * _PLACE.size)
        with contextlib.suppress(OSError), (self.folder / "chunks").open("rb") as file:
            file.seek(offset)
            data = file.read(length)
            return data if len(data) == length else None
        return None


class SnapshotWriter:
    """A snapshot that is being made, under the name `purpose` until it is whole. Methods raise StorageFault."""

    def __init__(self, folder: Path, purpose: str) -> None:
        self._parent, self._folder = folder, folder / f"{PARTIAL_PREFIX}{purpose}"
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        with _storage_faults(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True)
            self._chunks = (self._folder / "chunks").open("wb")

    def add(self, number: int, data: bytes) -> None:
        """Keep chunk `number`, from 0."""
        with _storage_faults(self._folder):
            self._chunks.write(data)
        self._places[number] = (self._end, len(data))
        self._end += len(data)

    def finish(self, era: int, manifest: bytes) -> StoredSnapshot:
        """All chunks are there: put everything on the medium, and give the folder its name."""
        index = b"".join(_PLACE.pack(*self._places[number]) for number in range(len(self._places)))
        target = self._parent / f"{ERA_PREFIX}{era}"
        with _storage_faults(self._folder):
            self._chunks.flush()
            os.fsync(self._chunks.fileno())
            self._chunks.close()
            for name, data in (("index", index), ("manifest", manifest)):
                with (self._folder / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            shutil.rmtree(target, ignore_errors=True)
            self._folder.rename(target)
            sync_folder(self._parent)
        return StoredSnapshot(target)

    def abort(self) -> None:
        """Drop it. Idempotent, and without effect after `finish`."""
        self._chunks.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def stored_snapshots(folder: Path) -> list[StoredSnapshot]:
    """The whole snapshots in a folder, newest first. What is unfinished or cannot be read is left out."""
    found: list[StoredSnapshot] = []
    for path in folder.glob(f"{ERA_PREFIX}*") if folder.is_dir() else ():
        if path.name.removeprefix(ERA_PREFIX).isdecimal():
            with contextlib.suppress(StorageFault):
                found.append(StoredSnapshot(path))
    return sorted(found, key=lambda one: -one.era)


def drop_snapshot(snapshot: StoredSnapshot) -> None:
    """Delete it."""
    shutil.rmtree(snapshot.folder, ignore_errors=True)


@contextlib.contextmanager
def _storage_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFault(f"cannot write a snapshot: {error.strerror}", path=str(path)) from None
