"""Random steps in the lives of agreements, for the histories that fuzz the whole ledger."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.agreements.keys import agreement_id, agreement_key, provider_key
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
AGREEMENTS_HELD = 8
LONG_MS = 10_000_000  # many times the longest pause between two commits


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
        self.opened: list[tuple[bytes, bytes]] = []  # (sender, salt) of the last tries
        self.made: list[bytes] = []  # the last that came about

    def operation(self, sender: bytes) -> Operation:
        choose = self.source.choice
        own, others = self._own(sender), self._offered(sender)
        identity, record = self._agreement(sender)
        offer = PostOffer(
            choose(own),
            "request",
            choose([1, 10, 5_000]),
            choose([400, 3 * LONG_MS]),
            990_000,
            choose([0, 200]),
            choose([0, 1_000, 1_000]),
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
            WithdrawOffer(choose(own)),
            self._opening(sender, choose(others)),
            self._opening(sender, choose(others)),
            TopUpAgreement(identity, choose([1, 10_000, RICH])),
            ExtendAgreement(identity, choose([100, 1_000, LONG_MS])),
            ExtendAgreement(identity, choose([100, 1_000, LONG_MS])),
            ClaimVoucher(sign_voucher(voucher, signer or choose(self.people))),
            ClaimVoucher(sign_voucher(voucher, signer or choose(self.people))),
            ClaimPayWord(identity, ONION.reveal(choose([steps] * 9 + [1])), steps),
            CloseAgreement(identity),
            SettleAgreement(identity),
        ]
        return choose(draws)

    def _own(self, sender: bytes) -> Sequence[str]:
        """Names of the sender, or any."""
        chain = self.ledger.chain
        records = [record for name in self.names if (record := chain.name(name)) is not None]
        owned = [record for record in records if record.owner == sender and record.is_active(chain.height)]
        return [record.name for record in owned] or self.names

    def _offered(self, sender: bytes) -> Sequence[str]:
        """Names that somebody else offers, or any."""
        chain, offered = self.ledger.chain, []
        for name in self.names:
            record = chain.name(name)
            if record is None or record.owner == sender or not record.is_active(chain.height):
                continue
            if chain.get(provider_key(record.owner, name)):
                offered.append(name)
        return offered or self.names

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
            choose([200, 400, LONG_MS]),
            tail,
            unit,
        )

    def _agreement(self, sender: bytes) -> tuple[bytes, Agreement | None]:
        """An agreement that there is, of the sender if possible; else one that there is not."""
        chain = self.ledger.chain
        for opener, salt in self.opened:
            for height in range(max(1, chain.height - LAST_COMMITS), chain.height + 1):
                identity = agreement_id(opener, salt, height)
                if identity not in self.made and chain.get(agreement_key(identity)) is not None:
                    self.made = [*self.made[1 - AGREEMENTS_HELD :], identity]
        records = [(one, decode_record(chain.get(agreement_key(one)), Agreement)) for one in self.made]
        records = [(one, record) for one, record in records if record is not None]
        lasting = [(one, record) for one, record in records if not record.closed_ms]
        own = [(one, record) for one, record in lasting if sender == record.client]
        return self.source.choice(own or lasting or records or [(self.source.choice(SALTS), None)])
