"""The genesis: everything that nodes of one chain must agree on before the first commit.

Its canonical bytes give the chain id, so two chains whose genesis differs in anything are different chains. As a file
it is JSON with byte strings in hexadecimal. The first committee, beacon value and state follow from it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from blockcloud.primitives import codec
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC, MICRO_PER_BLOC
from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.limits import COMMITTEE_MEMBERS
from blockcloud.service_chain.agreements.parameters import AgreementParameters
from blockcloud.service_chain.contracts.limits import ENGINE
from blockcloud.service_chain.market.parameters import MarketParameters
from blockcloud.service_chain.proof_of_service.parameters import ProofOfServiceParameters
from blockcloud.service_chain.records import (
    Account,
    Candidate,
    CandidateIndex,
    ConsensusKeyUse,
    CurrentEra,
    EraTally,
    Fees,
    Record,
    Reveals,
)
from blockcloud.service_chain.state_keys import (
    CANDIDATES_KEY,
    CURRENT_ERA_KEY,
    FEES_KEY,
    REVEALS_KEY,
    TALLY_KEY,
    account_key,
    candidate_key,
    consensus_key_use_key,
    era_key,
)
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters, PlotParameters
from blockcloud.transaction_chain.committee import Committee
from blockcloud.transaction_chain.era import EraPlan, Seat, placement_salt
from blockcloud.transaction_chain.parameters import Parameters

GENESIS_JSON_CHARACTERS: Final = 64 * 1024 * 1024
GENESIS_NAME_CHARACTERS: Final = 64
PROTOCOL_VERSION: Final = 1
# Parts per million of a seat as long as nobody has put up resources: the same for all.
RESOURCE_WEIGHT: Final = 1_000_000
# Of a public network: 21 days.
UNBONDING_MS: Final = 21 * 24 * 3_600 * 1_000
ADDRESS_CHARACTERS: Final = 256
# Commits that no lifetime of a name may exceed, so that heights stay far below 2**63.
LIFETIME_MAX: Final = 2**32


class NamingParameters(Struct, frozen=True):
    """Rules of names, in commits: a registration comes `preorder_min` to `preorder_max` commits after its preorder; a
    name lives `lifetime` and may be renewed by its owner for `grace` more.

    Of namespaces: `namespace_price` micro-BLOC for opening one with a long label (`namespaces.LENGTH_FACTORS`); it is
    ready within `ready_max` commits or lapses; its rules ask for at most `name_price_max` micro-BLOC a name and let
    one live, and its grace last, for at most `lifetime_max` commits."""

    preorder_min: int = 2
    preorder_max: int = 200
    lifetime: int = 10_000
    grace: int = 1_000
    namespace_price: int = 100 * MICRO_PER_BLOC
    ready_max: int = 10_000
    name_price_max: int = 1_000 * MICRO_PER_BLOC
    lifetime_max: int = 100_000_000

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        if not (1 <= self.preorder_min < self.preorder_max and self.lifetime >= 1 and self.grace >= 0):
            raise BadConfiguration("naming parameters: 1 <= preorder_min < preorder_max, lifetime >= 1, grace >= 0")
        if not (0 <= self.namespace_price <= GENESIS_SUPPLY_MICRO_BLOC and self.ready_max >= 1):
            raise BadConfiguration("naming parameters: 0 <= namespace_price <= genesis supply, ready_max >= 1")
        if not (0 <= self.name_price_max <= GENESIS_SUPPLY_MICRO_BLOC and 1 <= self.lifetime_max <= LIFETIME_MAX):
            raise BadConfiguration(
                "naming parameters: 0 <= name_price_max <= genesis supply, 1 <= lifetime_max <= 2**32"
            )


class FeeParameters(Struct, frozen=True):
    """Amounts in micro-BLOC. `target_weight` is the load of one commit at which the base fee stays as it is: by default
    half of a block full of single transfers (`fees.py`)."""

    base_fee: int = 10
    base_fee_floor: int = 1
    target_weight: int = 26_000
    lane_deposit: int = 10_000
    new_key_deposit: int = 10_000

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        if not (1 <= self.base_fee_floor <= self.base_fee and self.target_weight >= 1):
            raise BadConfiguration("fee parameters: 1 <= base_fee_floor <= base_fee, target_weight >= 1")
        if self.lane_deposit < 0 or self.new_key_deposit < 0:
            raise BadConfiguration("fee parameters: a deposit is not negative")


class StakingParameters(Struct, frozen=True):
    """Who may sit in a committee, and what it earns and risks. Bonds in micro-BLOC, percentages of what the name says.

    Bonds and keys freeze at `freeze_percent` of an era; reveals count from `beacon_from_percent` to
    `beacon_to_percent`; a member with a committed block in less than `active_percent` of the levels is jailed.
    What is unbonded stays for `unbonding_eras` eras and for `unbonding_ms` after the era it last counted in.
    """

    committee_size: int = 10
    minimum_bond: int = 1_000 * MICRO_PER_BLOC
    unbonding_eras: int = 3
    freeze_percent: int = 30
    beacon_from_percent: int = 40
    beacon_to_percent: int = 70
    active_percent: int = 10
    onion_length: int = 4_096
    emission_percent_a_year: int = 5
    emission_years: int = 6
    forfeit_era_rewards: int = 2
    slash_percent: int = 5
    reporter_percent: int = 5
    unbonding_ms: int = UNBONDING_MS

    @property
    def trusting_period_ms(self) -> int:
        """How long a light client relies on a certificate: half of the time for which its signers can be slashed, so
        that a lie that comes to light within it still has as long to be punished."""
        return self.unbonding_ms // 2

    def check(self, era_length: int) -> None:
        """Raise BadConfiguration unless the values fit together, in an era of `era_length` commits."""
        freeze, first, last = (
            era_length * percent // 100
            for percent in (self.freeze_percent, self.beacon_from_percent, self.beacon_to_percent)
        )
        relations = (
            (1 <= self.committee_size <= COMMITTEE_MEMBERS, f"a committee has 1 to {COMMITTEE_MEMBERS} members"),
            (self.minimum_bond >= 1 and self.unbonding_eras >= 1, "a bond is at least 1, unbonding at least an era"),
            (self.unbonding_ms >= 1, "unbonding takes time"),
            (1 <= freeze <= first < last < era_length, "freeze, beacon window and end of an era come in this order"),
            (0 <= self.active_percent <= 100 and self.onion_length >= 1, "0 to 100 % of levels, an onion of 1 layer"),
            (0 <= self.emission_percent_a_year * self.emission_years <= 100, "emission is at most the genesis supply"),
            (self.emission_years >= 1 and self.forfeit_era_rewards >= 0, "emission takes a year or more"),
            (1 <= self.slash_percent <= 100 and 0 <= self.reporter_percent < 100, "reporting oneself does not pay"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"staking parameters: {reason}", era_length=era_length)


class ContractParameters(Struct, frozen=True):
    """What all nodes must run contracts with: `engine` is its name and version, for fuel and results are what it says.
    `deposit_per_byte` micro-BLOC are laid down for each byte that a contract stores."""

    engine: str = ENGINE
    deposit_per_byte: int = 100

    def check(self) -> None:
        """Raise BadConfiguration unless the values make sense."""
        if not 1 <= len(self.engine) <= GENESIS_NAME_CHARACTERS or self.deposit_per_byte < 0:
            raise BadConfiguration("contract parameters: an engine has a name, a deposit is not negative")


class PolicyParameters(Struct, frozen=True):
    """`engine`: the Cedar that decides which policies may be bound, by name and version. Nodes with another one would
    come to other verdicts, so they refuse to start (`node/policy_engine.py`)."""

    engine: str = "cedarpy 4.12.2"

    def check(self) -> None:
        """Raise BadConfiguration unless the values make sense."""
        if not 1 <= len(self.engine) <= GENESIS_NAME_CHARACTERS:
            raise BadConfiguration("policy parameters: an engine has a name")


class GenesisValidator(Struct, frozen=True):
    """A member of the first committee, and a candidate for the next: `key` is its node key and the consensus key of its
    first era. `link_address` is the "host:port" of its link to other validators; `onion_tip` may be empty: it reveals
    nothing then."""

    key: bytes
    bond: int
    api_url: str
    link_address: str
    resource_weight: int = RESOURCE_WEIGHT
    onion_tip: bytes = b""


class Genesis(Struct, frozen=True):
    """The genesis. `accounts` are (public key, balance) pairs; with the bonds they make up the genesis supply."""

    name: str
    time_ms: int
    parameters: Parameters
    naming: NamingParameters
    validators: tuple[GenesisValidator, ...]
    accounts: tuple[tuple[bytes, int], ...]
    fees: FeeParameters = FeeParameters()
    staking: StakingParameters = StakingParameters()
    challenges: ChallengeParameters = ChallengeParameters()
    contracts: ContractParameters = ContractParameters()
    policies: PolicyParameters = PolicyParameters()
    agreements: AgreementParameters = AgreementParameters()
    market: MarketParameters = MarketParameters()
    proof_of_service: ProofOfServiceParameters = ProofOfServiceParameters()

    def check(self) -> None:
        """Raise BadConfiguration unless a chain can start from this."""
        if not 1 <= len(self.name) <= GENESIS_NAME_CHARACTERS or self.time_ms < 0:
            raise BadConfiguration(f"a genesis has a name of 1 to {GENESIS_NAME_CHARACTERS} characters and a time")
        self.parameters.check(len(self.committee()))
        self.naming.check()
        self.fees.check()
        self.contracts.check()
        self.policies.check()
        self.agreements.check()
        self.market.check()
        self.proof_of_service.check()
        self.staking.check(self.parameters.era_length)
        self.challenges.check()
        self._check_round()
        for validator in self.validators:
            if len(validator.onion_tip) not in (0, 32):
                raise BadConfiguration("an onion's tip has 32 bytes, or none", bytes=len(validator.onion_tip))
            if max(len(validator.api_url.encode()), len(validator.link_address.encode())) > ADDRESS_CHARACTERS:
                raise BadConfiguration("a validator's addresses are too long", limit=ADDRESS_CHARACTERS)
        keys = [key for key, _ in self.accounts]
        if any(len(key) != 32 for key in keys) or len(dict.fromkeys(keys)) != len(keys):
            raise BadConfiguration("genesis accounts have keys of 32 bytes, each once")
        if any(balance < 0 for _, balance in self.accounts):
            raise BadConfiguration("a genesis balance is not negative")
        supply = sum(balance for _, balance in self.accounts) + sum(validator.bond for validator in self.validators)
        if supply != GENESIS_SUPPLY_MICRO_BLOC:
            raise BadConfiguration(
                "balances and bonds of a genesis make up the genesis supply exactly",
                micro_bloc=supply,
                expected=GENESIS_SUPPLY_MICRO_BLOC,
            )

    def _check_round(self) -> None:
        """The round of challenges has its place in an era, and room for reports (`resources.py`)."""
        length, challenges = self.parameters.era_length, self.challenges
        freeze, draw, settle = (
            length * percent // 100
            for percent in (self.staking.freeze_percent, challenges.draw_percent, challenges.settle_percent)
        )
        relations = (
            (challenges.challengers >= 1 and challenges.lead_commits >= 1, "a challenger and a commit of lead"),
            (freeze <= draw and draw + challenges.lead_commits < settle < length, "freeze, draw, start, settlement"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"challenge parameters: {reason}, in this order in an era", era_length=length)

    def chain_id(self) -> bytes:
        """The identity of the chain, 32 bytes."""
        return tagged_hash("genesis/v1", codec.encode(self))

    def beacon(self) -> bytes:
        """The beacon of the first era, 32 bytes."""
        return tagged_hash("beacon/v1", self.chain_id())

    def committee(self) -> Committee:
        """The committee of the first era. Raises BadConfiguration."""
        return self.plan().committee()

    def plan(self) -> EraPlan:
        """Era 0, which begins at height 1."""
        beacon = self.beacon()
        seats = tuple(
            Seat(
                node_key=validator.key,
                consensus_key=validator.key,
                bond=validator.bond,
                resource_weight=validator.resource_weight,
                link_address=validator.link_address,
                api_url=validator.api_url,
                placement_salt=placement_salt(validator.key, beacon),
            )
            for validator in self.validators
        )
        return EraPlan(0, 1, beacon, PROTOCOL_VERSION, seats)

    def state(self) -> dict[bytes, Record]:
        """The state at height 0, by state key."""
        records: dict[bytes, Record] = {account_key(key): Account(balance) for key, balance in self.accounts}
        beacon = self.beacon()
        for validator in self.validators:
            records[candidate_key(validator.key)] = Candidate(
                validator.bond,
                validator.link_address,
                validator.api_url,
                keys=((0, validator.key),),
                onion=validator.onion_tip,
                placement_salt=placement_salt(validator.key, beacon),
            )
            records[consensus_key_use_key(validator.key)] = ConsensusKeyUse(validator.key, 0)
        none = (0,) * len(self.validators)
        records[CANDIDATES_KEY] = CandidateIndex(tuple(sorted(validator.key for validator in self.validators)))
        records[era_key(0)] = self.plan()
        records[CURRENT_ERA_KEY] = CurrentEra(0)
        records[TALLY_KEY] = EraTally(0, none, none, none)
        records[REVEALS_KEY] = Reveals(0, ())
        records[FEES_KEY] = Fees(self.fees.base_fee, 0, 0, GENESIS_SUPPLY_MICRO_BLOC)
        return records

    def to_json(self) -> str:
        """The genesis as a file: JSON with names, indented."""
        document: dict[str, Any] = {
            "name": self.name,
            "time_ms": self.time_ms,
            "parameters": msgspec.structs.asdict(self.parameters),
            "naming": msgspec.structs.asdict(self.naming),
            "fees": msgspec.structs.asdict(self.fees),
            "staking": msgspec.structs.asdict(self.staking),
            "challenges": {
                **msgspec.structs.asdict(self.challenges),
                "plot": msgspec.structs.asdict(self.challenges.plot),
            },
            "contracts": msgspec.structs.asdict(self.contracts),
            "policies": msgspec.structs.asdict(self.policies),
            "agreements": msgspec.structs.asdict(self.agreements),
            "market": msgspec.structs.asdict(self.market),
            "proof_of_service": msgspec.structs.asdict(self.proof_of_service),
            "validators": [
                {
                    **msgspec.structs.asdict(validator),
                    "key": validator.key.hex(),
                    "onion_tip": validator.onion_tip.hex(),
                }
                for validator in self.validators
            ],
            "accounts": {key.hex(): balance for key, balance in self.accounts},
        }
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"

    @staticmethod
    def from_json(text: str) -> Genesis:
        """The genesis of a file, checked. Raises BadConfiguration."""
        if len(text) > GENESIS_JSON_CHARACTERS:
            raise BadConfiguration("a genesis file is at most 64 MiB")
        try:
            document = msgspec.json.decode(text, type=_GenesisFile, strict=True)
            genesis = document.genesis()
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            raise BadConfiguration(f"not a genesis file: {error}") from None
        genesis.check()
        return genesis


class _GenesisFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON form; the parts that are structs of the canonical form are read field by field."""

    name: str
    time_ms: int
    parameters: dict[str, int]
    naming: dict[str, int]
    fees: dict[str, int]
    staking: dict[str, int]
    challenges: dict[str, int | dict[str, int]]
    validators: list[_ValidatorEntry]
    accounts: dict[str, int]
    contracts: dict[str, int | str] = {}
    policies: dict[str, str] = {}
    agreements: dict[str, int] = {}
    market: dict[str, int] = {}
    proof_of_service: dict[str, int] = {}

    def genesis(self) -> Genesis:
        return Genesis(
            self.name,
            self.time_ms,
            Parameters(**self.parameters),
            NamingParameters(**self.naming),
            tuple(
                GenesisValidator(
                    bytes.fromhex(entry.key),
                    entry.bond,
                    entry.api_url,
                    entry.link_address,
                    entry.resource_weight,
                    bytes.fromhex(entry.onion_tip),
                )
                for entry in self.validators
            ),
            tuple((bytes.fromhex(key), balance) for key, balance in self.accounts.items()),
            FeeParameters(**self.fees),
            StakingParameters(**self.staking),
            _challenge_parameters(self.challenges),
            msgspec.convert(self.contracts, _ContractsEntry).parameters(),
            PolicyParameters(**self.policies),
            AgreementParameters(**self.agreements),
            MarketParameters(**self.market),
            ProofOfServiceParameters(**self.proof_of_service),
        )


def _challenge_parameters(fields: dict[str, int | dict[str, int]]) -> ChallengeParameters:
    """Raises TypeError for a field that there is not, or of the wrong kind."""
    numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
    nested = {name: PlotParameters(**value) for name, value in fields.items() if isinstance(value, dict)}
    if list(nested) != ["plot"]:
        raise TypeError("the parameters of challenges are numbers, but for those of plots")
    return ChallengeParameters(nested["plot"], **numbers)


class _ContractsEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engine: str = ENGINE
    deposit_per_byte: int = ContractParameters().deposit_per_byte

    def parameters(self) -> ContractParameters:
        return ContractParameters(self.engine, self.deposit_per_byte)


class _ValidatorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    bond: int
    api_url: str
    link_address: str
    resource_weight: int = RESOURCE_WEIGHT
    onion_tip: str = ""
