"""Random steps in the lives of agreements, for the histories that fuzz the whole ledger."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key
from blockcloud.service_chain.agreements.operations import (
    ClaimPayWord,
    ClaimVoucher,
    CloseAgreement,
    ExtendAgreement,
    OpenAgreement,
    PostOffer,
    SettleAgreement,
    TopUpAgreement,
    WithdrawOffer,
)
from blockcloud.service_chain.agreements.records import Agreement
from blockcloud.service_chain.agreements.vouchers import Voucher, sign_voucher
from blockcloud.service_chain.operations import Operation
from blockcloud.service_chain.records import decode_record
from tests.service_chain.ledger_in_memory import RICH, Ledger

SALTS = (bytes(32), bytes([7]) * 32)
ONION = HashOnion(bytes([9]) * 32, 40)
LAST_COMMITS = 12


class RandomAgreements:
    """Draws operations; knows nothing but the ledger and what it drew before."""

    def __init__(
        self,
        ledger: Ledger,
        source: random.Random,
        people: Sequence[SigningKey],
        keys: Mapping[bytes, SigningKey],
        names: Sequence[str],
    ) -> None:
        self.ledger, self.source, self.people, self.keys, self.names = ledger, source, people, keys, names
        self.opened: list[tuple[bytes, bytes]] = []  # (sender, salt)

    def operation(self, sender: bytes) -> Operation:
        choose, name = self.source.choice, self._name()
        identity, record = self._agreement()
        offer = PostOffer(
            name, "request", choose([1, 10, 5_000]), choose([400, 4_000]), 990_000, choose([0, 200]), choose([0, 1_000])
        )
        voucher = Voucher(
            choose([self.ledger.chain.chain_id] * 9 + [bytes(32)]),
            identity,
            choose([0, 0, 1]),
            choose([1, 2, 3, 9]),
            choose([1, 50, 9_999, 10_000, 30_000, RICH]),
            choose([0, 1, 5]),
        )
        steps = choose([1, 2, 9, 40])
        signer = self.keys.get(record.voucher_key) if record is not None else None
        draws: list[Operation] = [
            offer,
            offer,
            WithdrawOffer(name),
            self._opening(sender, name),
            self._opening(sender, name),
            TopUpAgreement(identity, choose([1, 10_000, RICH])),
            ExtendAgreement(identity, choose([100, 1_000, 9_000])),
            ClaimVoucher(sign_voucher(voucher, signer or choose(self.people))),
            ClaimVoucher(sign_voucher(voucher, signer or choose(self.people))),
            ClaimPayWord(identity, ONION.reveal(choose([steps] * 9 + [1])), steps),
            CloseAgreement(identity),
            SettleAgreement(identity),
        ]
        return choose(draws)

    def _name(self) -> str:
        held = [name for name in self.names if self.ledger.chain.name(name) is not None]
        return self.source.choice(held or self.names)

    def _opening(self, sender: bytes, name: str) -> OpenAgreement:
        choose, salt = self.source.choice, self.source.choice(SALTS)
        owner = self.ledger.chain.name(name)
        self.opened = [*self.opened[-9:], (sender, salt)]
        tail, unit = choose([(b"", 0), (ONION.tip, 100)])
        return OpenAgreement(
            name,
            owner.owner if owner is not None else sender,
            salt,
            choose(self.people).public,
            choose([1, 10_000, 20_000]),
            choose([9, 5_000, 5_000]),
            choose([0, 990_000]),
            choose([200, 400, 3_000]),
            tail,
            unit,
        )

    def _agreement(self) -> tuple[bytes, Agreement | None]:
        """An agreement that there is, if one of those last tried is."""
        chain = self.ledger.chain
        for sender, salt in self.source.sample(self.opened, len(self.opened)):
            for height in range(max(1, chain.height - LAST_COMMITS), chain.height + 1):
                identity = agreement_id(sender, salt, height)
                record = decode_record(chain.get(agreement_key(identity)), Agreement)
                if record is not None:
                    return identity, record
        return self.source.choice(SALTS), None
