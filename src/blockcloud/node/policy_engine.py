"""The Cedar that this node runs must be the one of the genesis: its verdict on a policy is part of consensus."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.policy_text import ENGINE


def require_policy_engine(genesis: Genesis) -> None:
    """Raise BadConfiguration unless the installed engine is the one that `genesis` and this program name."""
    package = ENGINE.partition(" ")[0]
    try:
        installed = f"{package} {version(package)}"
    except PackageNotFoundError:
        installed = "none"
    if not installed == ENGINE == genesis.policies.engine:
        raise BadConfiguration(
            "this node cannot judge the policies of the chain: it needs the engine that the genesis names",
            installed=installed,
            wanted=genesis.policies.engine,
        )
