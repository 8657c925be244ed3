"""What all nodes must agree on about agreements: a group of the genesis."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration

PARTS_PER_MILLION: Final = 1_000_000
# Ten years: sums of times stay far below 2**63.
TIME_MAX_MS: Final = 10 * 365 * 24 * 3_600 * 1_000


class AgreementParameters(Struct, frozen=True):
    """Amounts in micro-BLOC, times in ms of commit time.

    Of each payment `levy_ppm` parts per million go to the pot of the name's verification. A client that closes waits
    for the provider's declared sleep (at most `sleep_max_ms`) and `finality_ms` more. A provider's bond is at least
    `bond_min` and stays for `bond_hold_ms` after the last agreement that it stands for.
    """

    levy_ppm: int = 20_000
    finality_ms: int = 5_000
    sleep_max_ms: int = 7 * 24 * 3_600 * 1_000
    window_max_ms: int = 366 * 24 * 3_600 * 1_000
    deposit_min: int = 10_000
    bond_min: int = 10 * MICRO_PER_BLOC
    bond_hold_ms: int = 600_000

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        times = (self.finality_ms, self.sleep_max_ms, self.window_max_ms, self.bond_hold_ms)
        if not 0 <= self.levy_ppm < PARTS_PER_MILLION:
            raise BadConfiguration("agreement parameters: the levy is less than the payment")
        if not (min(self.finality_ms, self.window_max_ms) >= 1 and min(times) >= 0 and max(times) <= TIME_MAX_MS):
            raise BadConfiguration("agreement parameters: finality and windows take time, nothing takes ten years")
        if not (1 <= self.deposit_min <= GENESIS_SUPPLY_MICRO_BLOC and 1 <= self.bond_min <= GENESIS_SUPPLY_MICRO_BLOC):
            raise BadConfiguration("agreement parameters: 1 <= deposit_min, bond_min <= genesis supply")
