"""What programs use to reach the ledger and the services: light client, typed clients, resolver.

`AsyncClient` and `Client` talk to any validator's HTTP API and trust none: `LightClient` checks every state value by
proof and certificate, `ChainResolver` every service file by hash and every address record by signature.
"""

from blockcloud.sdk.client import AsyncClient
from blockcloud.sdk.light_client import LightClient, Proven
from blockcloud.sdk.resolver import ChainResolver, HttpAnnouncer
from blockcloud.sdk.sync import Client

__all__ = ["AsyncClient", "ChainResolver", "Client", "HttpAnnouncer", "LightClient", "Proven"]
