"""Both example contracts on a real devnet of four validator processes, which must all come to the same."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcloud.node.devnet import Devnet
from blockcloud.primitives.keys import SigningKey
from blockcloud.sdk import AsyncClient, contracts
from blockcloud.service_chain.genesis import Genesis
from blockcloud.service_chain.rejections import InsufficientBalance
