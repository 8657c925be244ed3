"""A ledger with a provider, its name and its offer, and what tests of agreements do on it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key, pot_key, provider_key
from blockcloud.service_chain.agreements.operations import ClaimVoucher, OpenAgreement, PostOffer
from blockcloud.service_chain.agreements.records import Agreement, PotRecord, ProviderRecord
from blockcloud.service_chain.agreements.vouchers import SignedVoucher, Voucher, sign_voucher
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import NAMING, SALT, USERS, Ledger, small_genesis

PROVIDER, CLIENT, STRANGER, VOUCHER_KEY = USERS[1], USERS[2], USERS[3], USERS[4]
NAME = "thermo"
PRICE = 100
BOND = 50_000
DEPOSIT = 100_000
WINDOW_MS = 2_000
SLEEP_MS = 200
TIMER_MS = SLEEP_MS + 300  # and the finality of AGREEMENTS
ONION = HashOnion(bytes([5]) * 32, 2_000)


class ChannelWorld:
    """`ledger`, with the offer posted. Commits are 100 ms apart."""

    def __init__(self) -> None:
        self.ledger = Ledger(small_genesis(replace(NAMING, lifetime=10_000)))
        assert self.ledger.register(PROVIDER, NAME) == "ok"
        assert self.ledger.run(PROVIDER, offer()) == "ok"

    def open(self, client: SigningKey = CLIENT, **changes: Any) -> bytes:
        """The id of a new agreement."""
        assert self.ledger.run(client, opening(**changes)) == "ok"
        return agreement_id(client.public, changes.get("salt", SALT), self.ledger.height)

    def record(self, agreement: bytes) -> Agreement:
        found = decode_record(self.ledger.chain.get(agreement_key(agreement)), Agreement)
        assert found is not None
        return found

    def provider(self) -> ProviderRecord | None:
        return decode_record(self.ledger.chain.get(provider_key(PROVIDER.public, NAME)), ProviderRecord)

    def pot(self) -> int:
        record = decode_record(self.ledger.chain.get(pot_key(NAME)), PotRecord)
        return record.balance if record is not None else 0

    def balance(self, user: SigningKey) -> int:
        account = self.ledger.chain.account(user.public)
        return account.balance if account is not None else 0

    def voucher(self, agreement: bytes, amount: int, sequence: int = 1, **changes: Any) -> SignedVoucher:
        key = changes.pop("key", VOUCHER_KEY)
        fields = {"chain_id": self.ledger.chain.chain_id, "epoch": 0, "units": 0, **changes}
        return sign_voucher(Voucher(agreement=agreement, sequence=sequence, amount=amount, **fields), key)

    def claim(self, agreement: bytes, amount: int, sequence: int = 1, **changes: Any) -> str:
        """What becomes of a stranger's claim."""
        return self.ledger.run(STRANGER, ClaimVoucher(self.voucher(agreement, amount, sequence, **changes)))


def offer(**changes: Any) -> PostOffer:
    fields: dict[str, Any] = {
        "name": NAME,
        "unit": "request",
        "unit_price": PRICE,
        "longest_ms": WINDOW_MS,
        "quality_ppm": 990_000,
        "sleep_ms": SLEEP_MS,
        "bond": BOND,
    }
    return PostOffer(**{**fields, **changes})


def opening(**changes: Any) -> OpenAgreement:
    fields: dict[str, Any] = {
        "name": NAME,
        "provider": PROVIDER.public,
        "salt": SALT,
        "voucher_key": VOUCHER_KEY.public,
        "deposit": DEPOSIT,
        "price_limit": PRICE,
        "quality_ppm": 990_000,
        "duration_ms": WINDOW_MS,
    }
    return OpenAgreement(**{**fields, **changes})
