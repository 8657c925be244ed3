"""BlockCloud: reach a service by its name, pay a fair price, and prove afterwards what was served.

    async with blockcloud.listen("thermo", home="net", key="net/accounts/provider.pem") as listener: ...
    session = await blockcloud.connect("thermo", home="net")

What programs use is exported here and loaded at its first use, so that a program pays only for what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Budget",
    "Client",
    "Fetched",
    "Fetcher",
    "__version__",
    "connect",
    "fetch",
    "listen",
    "read_feed",
]

if TYPE_CHECKING:
    from blockcloud.sdk.client import AsyncClient
    from blockcloud.sdk.feed import read_feed
    from blockcloud.sdk.fetching import Fetched, Fetcher, fetch
    from blockcloud.sdk.paid_sessions import Budget
    from blockcloud.sdk.services import connect, listen
    from blockcloud.sdk.sync import Client
else:
    _HOMES: Final = {
        "AsyncClient": "blockcloud.sdk.client",
        "Client": "blockcloud.sdk.sync",
        "Fetched": "blockcloud.sdk.fetching",
        "Fetcher": "blockcloud.sdk.fetching",
        "Budget": "blockcloud.sdk.paid_sessions",
        "connect": "blockcloud.sdk.services",
        "fetch": "blockcloud.sdk.fetching",
        "listen": "blockcloud.sdk.services",
        "read_feed": "blockcloud.sdk.feed",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
