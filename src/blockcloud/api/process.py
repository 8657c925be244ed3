"""A node's process: configuration and key from its home folder, validator and API in one event loop, an orderly end."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path

import structlog
import uvloop

from blockcloud.api.server import ApiServer, build_app
from blockcloud.node.config import NodeConfig, read_config
from blockcloud.node.logging import set_up_logging
from blockcloud.node.memory import keep_little_memory
from blockcloud.node.policy_engine import require_policy_engine
from blockcloud.node.validator import Validator
from blockcloud.primitives.keys import SigningKey, self_test
from blockcloud.sdk.home import read_genesis
from blockcloud.service_chain.genesis import Genesis

log = structlog.get_logger()


def run_node(home: Path) -> None:
    """Run until SIGTERM or SIGINT. Raises BadConfiguration, Unreachable (an address is taken), StorageFault, or
    Diverged when the node must not go on."""
    config = read_config(home)
    set_up_logging(config.log_level)
    keep_little_memory()
    self_test()
    genesis = read_genesis(config.genesis_path)
    require_policy_engine(genesis)
    key = SigningKey.load(config.key_path)
    # Blocks and receipts are freed by reference counting; a full collection over a million live objects would
    # stop the loop for longer than a level takes.
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(_run(config, genesis, key))


async def _run(config: NodeConfig, genesis: Genesis, key: SigningKey) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    validator = Validator(config, genesis, key)
    server = ApiServer(build_app(validator, config.api_host), config.api_host, config.api_port)
    try:
        await validator.start()
        await server.start()
        log.info("node_ready", api=f"http://{config.api_host}:{server.port}", home=str(config.home))
        waiting = {asyncio.create_task(end.wait()), asyncio.create_task(validator.failed())}
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
    finally:
        validator.events.close()  # ends the event streams, which the server would wait for
        await server.stop()
        await validator.stop()
