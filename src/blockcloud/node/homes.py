"""The home folder of a node: of a validator of the genesis, or of a newcomer that the genesis does not know.

It holds the genesis, a configuration, and secrets that never leave it: the node key, which is who the node is for
life, and the secret of its hash onion. The data begins at the genesis, and nothing in it lets a newcomer sign: that
takes a bond, and a consensus key that the running node makes itself (`node/consensus_keys.py`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from blockcloud.node.config import BASE_PORT, CONFIG_FILE, NodeConfig
from blockcloud.node.ledger_tables import initialise_data
from blockcloud.node.resource_config import ResourceConfig
from blockcloud.node.storage import RocksStore
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.keys import SigningKey
from blockcloud.service_chain.genesis import Genesis

HIGHEST_PORT: Final = 65_535
EXAMINATION_OFFSET: Final = 7  # behind the ports of service access, QUIC, proxies and DNS


def make_home(
    folder: Path, genesis: Genesis, base_port: int = BASE_PORT, resources: ResourceConfig | None = None
) -> tuple[NodeConfig, SigningKey]:
    """Make the home of a new node of the chain of `genesis` in `folder`, which must be empty or not exist yet. The API
    gets `base_port` and the links the port after it; `resources` is what the node stakes.
    Returns its configuration and its node key.

    Raises BadConfiguration.
    """
    highest = HIGHEST_PORT - (1 if resources is None else EXAMINATION_OFFSET)
    if not 1 <= base_port <= highest:
        raise BadConfiguration(f"a base port is between 1 and {highest}", base_port=base_port)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadConfiguration("the folder holds something already; choose another one", folder=str(folder))
    except OSError as error:
        raise BadConfiguration(f"cannot make the folder: {error.strerror}", folder=str(folder)) from None
    config = NodeConfig(
        home=folder, api_port=base_port, link_port=base_port + 1, resources=resources_at(resources, base_port)
    )
    key = SigningKey.generate()
    fill_home(config, genesis, key, SigningKey.generate())
    return config, key


def resources_at(resources: ResourceConfig | None, base_port: int) -> ResourceConfig | None:
    """`resources` with the examination port that belongs to a node's base port."""
    return None if resources is None else replace(resources, examination_port=base_port + EXAMINATION_OFFSET)


def fill_home(config: NodeConfig, genesis: Genesis, key: SigningKey, onion: SigningKey) -> None:
    """Write all that a node needs into the empty folder `config.home`: its data begins at the genesis."""
    config.genesis_path.write_text(genesis.to_json(), encoding="utf-8")
    key.save(config.key_path)
    onion.save(config.onion_path)
    store = RocksStore(config.data_path)
    try:
        initialise_data(store, genesis)
    finally:
        store.close()
    # Last: with it the home is complete.
    (config.home / CONFIG_FILE).write_text(config.to_toml(), encoding="utf-8")
