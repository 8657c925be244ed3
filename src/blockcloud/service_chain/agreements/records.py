"""What the state holds about agreements: amounts in micro-BLOC, times in ms of commit time."""

from __future__ import annotations

from blockcloud.primitives.codec import Struct


class Offer(Struct, frozen=True):
    """A posted price: `unit_price` for each `unit`, promised quality in parts per million, agreements of at most
    `longest_ms`. `sleep_ms`: for how long the provider may be out of reach, and not see that a channel is closing."""

    unit: str
    unit_price: int
    longest_ms: int
    quality_ppm: int
    sleep_ms: int


class ProviderRecord(Struct, frozen=True):
    """What a provider has put up for its agreements under a name. `live` of them are not closed; the bond stays at
    least until `held_until_ms`."""

    name: str
    provider: bytes
    bond: int
    live: int = 0
    held_until_ms: int = 0
    offer: Offer | None = None

    @property
    def at_stake(self) -> int:
        """What breaches can be paid from."""
        return self.bond


class Agreement(Struct, frozen=True):
    """An agreement and its channel. The vouchers of `voucher_key` move what is in it: `voucher_amount` is the highest
    that was claimed, as number (`epoch`, `sequence`), and `tail_steps` layers of the PayWord tail at `tail_unit` each.
    `closes_ms` is 0 unless the client is closing; `closed_ms` is 0 until it is over. Its status is
    `rules.status_of`."""

    name: str
    client: bytes
    provider: bytes
    voucher_key: bytes
    unit: str
    unit_price: int
    quality_ppm: int
    start_ms: int
    end_ms: int
    close_timer_ms: int
    deposited: int
    tail_tip: bytes = b""  # the last known layer of the PayWord onion, at first its tip; empty: none
    tail_unit: int = 0
    tail_steps: int = 0
    voucher_amount: int = 0
    epoch: int = 0
    sequence: int = 0
    levied: int = 0
    breach_paid: int = 0
    closes_ms: int = 0
    closed_ms: int = 0
    matched: bool = False  # by an auction, not opened at a posted price

    @property
    def paid(self) -> int:
        """What has been claimed, the levy included."""
        return self.voucher_amount + self.tail_steps * self.tail_unit

    @property
    def balance(self) -> int:
        """What is still locked in the channel."""
        return 0 if self.closed_ms else self.deposited - self.paid


class PotRecord(Struct, frozen=True):
    """What levies have brought for the verification of a name, and nobody has earned yet."""

    name: str
    balance: int
