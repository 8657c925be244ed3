"""The file in which a client keeps what it trusts over a restart: one for each chain, for this user only.

It is written beside its place and moved there whole, so a crash leaves the old one or the new one. Programs that share
a home take turns at a lock on its folder, and what is written is what all of them know together (`together`): nobody
takes another back in time, and two that were shown different histories find out. The same file is how a recent
certificate is given to somebody else, who has to trust whoever gives it. DESIGN section 3.6, ADR 13.
"""

from __future__ import annotations

import fcntl
import os
import select
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration, PeerFault, StorageFault
from blockcloud.primitives.files import sync_folder
from blockcloud.sdk.errors import ConflictingCertificates
from blockcloud.sdk.home import Home
from blockcloud.sdk.light_client import TRUSTED_STATE_BYTES, TrustedState

TRUST_FOLDER: Final = "trust"
# A newer time in the same era is written no more often: a restart then takes a client back by so much at the most.
KEEP_SECONDS: Final = 600
# So long a program waits for another one that writes; only one that was stopped half-way takes longer.
LOCK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.005
_OTHERS_MAY_WRITE: Final = 0o022


class TrustStore:
    """The trusted state of one chain in the file `path`. Any number of them, in any processes, may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: TrustedState | None = None  # the newest that this object read or was given

    @classmethod
    def under(cls, home: Home, chain_id: bytes) -> TrustStore:
        """The store of a chain in a home folder."""
        return cls(home.path / TRUST_FOLDER / f"{chain_id.hex()}.trust")

    def load(self) -> TrustedState | None:
        """What was kept; None if nothing was. Raises BadConfiguration if the file cannot be read, is damaged, or can be
        written by others."""
        try:
            if self.path.stat().st_mode & _OTHERS_MAY_WRITE:
                raise BadConfiguration(
                    "others may write the trust file, so it says nothing; `chmod 600` it if nobody has, "
                    "or begin again from the genesis with `blockcloud trust reset`",
                    path=str(self.path),
                )
            self._kept = read_trusted_state(self.path)
        except FileNotFoundError:
            self._kept = None
        except PeerFault as error:
            raise BadConfiguration(
                f"the trust file is damaged ({error}); begin again from the genesis with `blockcloud trust reset`",
                path=str(self.path),
            ) from None
        except OSError as error:
            raise BadConfiguration(f"cannot read the trust file: {error.strerror}", path=str(self.path)) from None
        return self._kept

    def keep(self, state: TrustedState, *, at_once: bool = False) -> None:
        """Add `state` to what is kept if its eras or evidence are new, or its time is newer by ten minutes or,
        `at_once`, at all. What is kept never gets older.

        Raises StorageFault, BadConfiguration as `load`, or ConflictingCertificates if another program of this home was
        shown another history; that is kept too, and from then on no client that starts here trusts anything.
        """
        kept = self._kept
        if kept is not None:
            same = (kept.handovers, kept.evidence) == (state.handovers, state.evidence)
            if same and state.time_ms - kept.time_ms < (1 if at_once else KEEP_SECONDS * 1_000):
                return
        with self._locked():
            stored = self.load()
            known = state if stored is None else together(stored, state)
            if known != stored:
                self._write(known)
        if known.evidence and not state.evidence:
            self._kept = known
            raise ConflictingCertificates("a program with the same home was shown another history")
        self._kept = state

    def save(self, state: TrustedState) -> None:
        """Put `state` in the place of what was kept, newer or not; that stays beside it. Raises StorageFault."""
        with self._locked():
            self._write(state, aside=True)
        self._kept = state

    def forget(self) -> Path | None:
        """Keep nothing any more; where the old file is now, if there was one. Raises StorageFault."""
        with self._locked():
            self._kept = None
            try:
                os.replace(self.path, self._aside)
            except FileNotFoundError:
                return None
            return self._aside

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.old")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which is made if need be. OSError becomes StorageFault."""
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._take(descriptor)
                yield
            finally:
                os.close(descriptor)  # and with it the lock goes
        except OSError as error:
            raise StorageFault(f"cannot keep the trusted state: {error.strerror}", path=str(self.path)) from None

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StorageFault(
                        "another program holds the trust folder and does not go on", path=str(self.path.parent)
                    ) from None
                select.select([], [], [], _POLL_SECONDS)
            else:
                return

    def _write(self, state: TrustedState, *, aside: bool = False) -> None:
        folder = self.path.parent
        # Made with mode 0600, under a name that no other process uses.
        descriptor, name = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(codec.encode(state))
                file.flush()
                os.fsync(file.fileno())
            if aside and self.path.exists():
                self._aside.unlink(missing_ok=True)
                os.link(self.path, self._aside)
            os.replace(name, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
        sync_folder(folder)


def read_trusted_state(path: Path) -> TrustedState:
    """The trusted state in a file. Raises OSError, or a PeerFault if the file holds something else."""
    with path.open("rb") as file:
        return codec.decode(file.read(TRUSTED_STATE_BYTES + 1), TrustedState, limit=TRUSTED_STATE_BYTES)


def together(one: TrustedState, other: TrustedState) -> TrustedState:
    """What two clients of one chain know together: the newer hand-overs and the newer certificate; and evidence, if one
    has it or the two contradict each other. Of two that say the same, `other`."""
    ahead = other if _last_era(other) >= _last_era(one) else one
    newer = other if _height(other) >= _height(one) else one
    evidence = one.evidence or other.evidence or _contradiction(one, other)
    return TrustedState(ahead.chain_id, ahead.handovers, newer.newest, newer.time_ms, evidence)


def _contradiction(one: TrustedState, other: TrustedState) -> tuple[bytes, ...]:
    """The canonical bytes of what cannot both be true, or nothing."""
    eras = {handover.plan.era: handover for handover in one.handovers}
    for handover in other.handovers:
        known = eras.get(handover.plan.era)
        if known is not None and known.certificate.statement != handover.certificate.statement:
            return _encoded(known, handover)
    if one.newest is None or other.newest is None:
        return ()
    higher, times = _height(one) - _height(other), one.time_ms - other.time_ms
    if (higher == 0 and one.newest.statement != other.newest.statement) or higher * times < 0:
        return _encoded(one.newest, other.newest)
    return ()


def _encoded(*things: Struct) -> tuple[bytes, ...]:
    return tuple(codec.encode(thing) for thing in things)


def _last_era(state: TrustedState) -> int:
    return state.handovers[-1].plan.era if state.handovers else 0


def _height(state: TrustedState) -> int:
    return state.newest.statement.height if state.newest is not None else 0
