"""The file in which a client keeps what it trusts over a restart: one for each chain, for this user only.

It is written beside its place and moved there whole, so a crash leaves the old one or the new one. The same file is
how a recent certificate is given to somebody else, who has to trust whoever gives it. DESIGN section 3.6.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, PeerFault, StorageFault
from blockcloud.primitives.files import sync_folder
from blockcloud.sdk.home import Home
from blockcloud.sdk.light_client import TRUSTED_STATE_BYTES, TrustedState

TRUST_FOLDER: Final = "trust"
# A newer time in the same era is written no more often: a restart then takes a client back by so much at the most.
KEEP_SECONDS: Final = 600


class TrustStore:
    """The trusted state of one chain in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: TrustedState | None = None

    @classmethod
    def under(cls, home: Home, chain_id: bytes) -> TrustStore:
        """The store of a chain in a home folder."""
        return cls(home.path / TRUST_FOLDER / f"{chain_id.hex()}.trust")

    def load(self) -> TrustedState | None:
        """What was kept; None if nothing was. Raises BadConfiguration if the file cannot be read or is damaged."""
        try:
            with self.path.open("rb") as file:
                data = file.read(TRUSTED_STATE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadConfiguration(f"cannot read the trust file: {error.strerror}", path=str(self.path)) from None
        try:
            self._kept = codec.decode(data, TrustedState, limit=TRUSTED_STATE_BYTES)
        except PeerFault as error:
            raise BadConfiguration(
                f"the trust file is damaged ({error}); remove it to begin again from the genesis",
                path=str(self.path),
            ) from None
        return self._kept

    def keep(self, state: TrustedState, *, at_once: bool = False) -> None:
        """Save `state` if its eras or evidence are new, or its time is newer by ten minutes or, `at_once`, at all."""
        kept = self._kept
        if kept is not None:
            same = (kept.handovers, kept.evidence) == (state.handovers, state.evidence)
            if same and state.time_ms - kept.time_ms < (1 if at_once else KEEP_SECONDS * 1_000):
                return
        self.save(state)

    def save(self, state: TrustedState) -> None:
        """Put `state` in the place of what was kept, all or nothing. Raises StorageFault."""
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made with mode 0600, under a name that no other process uses.
            descriptor, name = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(codec.encode(state))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, self.path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(name)
                raise
            sync_folder(folder)
        except OSError as error:
            raise StorageFault(f"cannot keep the trusted state: {error.strerror}", path=str(self.path)) from None
        self._kept = state
