"""A process that answers challenges: `python -m tests.node.resource_child` with a JSON object on standard input.

It prints the port it listens on. Whoever connects first says its key, in place of the handshake of a real link.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from blockcloud.node.resources.challenge import Prover
from blockcloud.node.resources.examination import serve
from blockcloud.node.resources.plot import PlotFile, SegmentProof, make_chunk
from blockcloud.transaction_chain.cloudpos.parameters import ChallengeParameters
from blockcloud.transaction_chain.cloudpos.stake import Resources, StakeClaim
from tests.node.resource_world import key_of


class Forgetful(PlotFile):
    """Acts as if the chunks from `kept` on were deleted: they are made again when they are asked for."""

    kept = 0

    def read(self, number: int, segment: int) -> SegmentProof:
        if number >= self.kept:
            make_chunk(self.node_key, self.seed, number, self.parameters)
        return super().read(number, segment)


async def main() -> None:
    told = json.loads(sys.stdin.readline())
    claim = StakeClaim(Resources(*told["resources"]), 1, bytes.fromhex(told["root"]))
    path = Path(told["path"]) if told["path"] else None
    prover = Prover(claim, key_of(told["number"]), path, ChallengeParameters(), told["cores"])

    if path is not None and told["kept"] is not None:
        prover.close()
        Forgetful.kept = told["kept"]
        prover._plot = Forgetful(path)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(prover, await reader.readexactly(32), reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Until the parent is gone.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
