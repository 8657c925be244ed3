"""Balances: who has what, and how it moves. An account comes into being when something is paid to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.genesis import FeeParameters, NamingParameters, StakingParameters
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.operations import Transfer
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.records import Account
from blockcloud.service_chain.rejections import BelowNewKeyDeposit, InsufficientBalance
from blockcloud.service_chain.state_keys import account_key
from blockcloud.service_chain.working_state import WorkingState
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.era import EraPlan

if TYPE_CHECKING:
    from blockcloud.service_chain.contracts.runtime import ContractRuntime

# What an operation tells subscribers: (kind, data).
Event = tuple[str, bytes]
NO_EVENTS: Final[Sequence[Event]] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule may know besides the state: the commit, its era, and the parameters of the chain."""

    height: int
    time_ms: int
    naming: NamingParameters
    fees: FeeParameters
    staking: StakingParameters
    chain_id: bytes
    plan: EraPlan  # of the era that the commit belongs to
    era_length: int  # commits
    challenges: ChallengeParameters
    contracts: ContractRuntime  # of the thread that executes
    agreements: AgreementParameters
    market: MarketParameters
    proof_of_service: ProofOfServiceParameters


def debit(state: WorkingState, owner: bytes, amount: int) -> None:
    """Take `amount` micro-BLOC from an account. Raises InsufficientBalance."""
    key = account_key(owner)
    account = state.get(key, Account)
    if account is None or account.balance < amount:
        raise InsufficientBalance(balance=account.balance if account else 0, amount=amount)
    state.put(key, Account(account.balance - amount, account.sequence, account.highest_lane, account.rekeyed))


def credit(state: WorkingState, owner: bytes, amount: int) -> None:
    """Give `amount` micro-BLOC to an account, which comes into being if there is none."""
    key = account_key(owner)
    account = state.get(key, Account)
    if account is None:
        state.put(key, Account(amount))
    else:
        state.put(key, Account(account.balance + amount, account.sequence, account.highest_lane, account.rekeyed))


def apply_transfer(state: WorkingState, sender: bytes, operation: Transfer, context: Context) -> Sequence[Event]:
    """Move an amount. A new account must start with the deposit for a new key, or state would grow for nothing."""
    # Most of what the ledger does: `debit` and `credit` with each key built once.
    amount, source, target = operation.amount, account_key(sender), account_key(operation.to)
    payer = state.get(source, Account)
    if payer is None or payer.balance < amount:
        raise InsufficientBalance(balance=payer.balance if payer else 0, amount=amount)
    state.put(source, Account(payer.balance - amount, payer.sequence, payer.highest_lane, payer.rekeyed))
    payee = state.get(target, Account)
    if payee is not None:
        state.put(target, Account(payee.balance + amount, payee.sequence, payee.highest_lane, payee.rekeyed))
    elif amount < context.fees.new_key_deposit:
        raise BelowNewKeyDeposit(amount=amount, deposit=context.fees.new_key_deposit)
    else:
        state.put(target, Account(amount))
    return NO_EVENTS
