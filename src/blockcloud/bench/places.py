"""The validators of a chain that a benchmark makes: parameters, a genesis with funded payers, homes, processes.

`node/devnet.py` makes a network for people, with accounts of its own; here the payers hold the supply, the past may
begin at any time, and each validator is started when the benchmark wants it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blockcloud.bench.processes import ended_at_last
from blockcloud.node.config import NodeConfig
from blockcloud.node.devnet import (
    BOND_MICRO_BLOC,
    FEES_MICRO_BLOC,
    HOST,
    Validator,
    free_port,
    start_validator,
)
from blockcloud.node.homes import fill_home
from blockcloud.node.membership import onion_core
from blockcloud.primitives.amounts import GENESIS_SUPPLY_MICRO_BLOC
from blockcloud.primitives.hash_onion import HashOnion
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis, GenesisValidator, NamingParameters, StakingParameters
from blockcloud.transaction_chain.parameters import Parameters


def parameters_of(era_length: int, validators: int) -> Parameters:
    """The usual parameters, as far as eras of `era_length` commits and a committee of `validators` permit them."""
    usual = Parameters()
    return Parameters(
        leader_slots=min(usual.leader_slots, validators),
        era_length=era_length,
        leader_table_period=min(usual.leader_table_period, max(1, (era_length - 1) // 4)),
    )


@dataclass(frozen=True, slots=True)
class Places:
    """The homes of a chain's first validators, in the order of their seats, with their keys."""

    genesis: Genesis
    configs: tuple[NodeConfig, ...]
    keys: tuple[SigningKey, ...]

    def api(self, number: int) -> str:
        """The URL of a validator's API."""
        return f"http://{HOST}:{self.configs[number].api_port}"

    def start(self, number: int) -> subprocess.Popen[bytes]:
        """Start the process of a validator; the caller ends it."""
        config = self.configs[number]
        link = self.genesis.validators[number].link_address
        return start_validator(Validator(number, self.api(number), link, 0, str(config.home), str(config.data_path)))


def make_places(
    folder: Path, validators: int, payers: Sequence[SigningKey], parameters: Parameters, time_ms: int
) -> Places:
    """A new chain that began at `time_ms`, in whose genesis the payers share the supply; its validators' homes, ready
    to run, are in `folder`."""
    keys = tuple(sorted((SigningKey.generate() for _ in range(validators)), key=lambda key: key.public))
    onions = [SigningKey.generate() for _ in keys]
    staking = StakingParameters()
    configs = tuple(
        NodeConfig(home=folder / f"node{number}", api_port=free_port(), link_port=free_port())
        for number in range(validators)
    )
    members = tuple(
        GenesisValidator(
            key.public,
            BOND_MICRO_BLOC,
            f"http://{HOST}:{config.api_port}",
            f"{HOST}:{config.link_port}",
            onion_tip=HashOnion(onion_core(onion), staking.onion_length).tip,
        )
        for key, onion, config in zip(keys, onions, configs, strict=True)
    )
    free = GENESIS_SUPPLY_MICRO_BLOC - (BOND_MICRO_BLOC + FEES_MICRO_BLOC) * validators
    share, rest = divmod(free, len(payers))
    balances = tuple((payer.public, share + (rest if i == 0 else 0)) for i, payer in enumerate(payers))
    genesis = Genesis(
        name="bench",
        time_ms=time_ms,
        parameters=parameters,
        naming=NamingParameters(),
        validators=members,
        accounts=balances + tuple((key.public, FEES_MICRO_BLOC) for key in keys),
        staking=staking,
    )
    genesis.check()
    for config, key, onion in zip(configs, keys, onions, strict=True):
        config.home.mkdir(mode=0o700, parents=True)
        fill_home(config, genesis, key, onion)
    return Places(genesis, configs, keys)


@contextmanager
def validators(places: Places, numbers: Sequence[int]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Validator processes of these members; more may be added to the list, and all end with the context."""
    with ended_at_last() as processes:
        for number in numbers:
            processes.append(places.start(number))
        yield processes
