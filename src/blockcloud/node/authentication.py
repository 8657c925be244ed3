"""Who is at the other end of a TLS connection between nodes: both sides prove their node keys.

The handshake of the service access layer (`service_access/handshake.py`) covers the TLS certificate of the side that
was called, so neither can be someone in the middle. It ends with an empty frame, by which the called side says that it
takes the caller. `send` queues a frame, `next_frame` gives the next one; whoever calls sets the time for all of it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from blockcloud.primitives.keys import SigningKey
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Initiator, Responder

Send = Callable[[bytes], None]
NextFrame = Callable[[], Awaitable[bytes]]
ACCEPTED = b""


async def introduce(
    send: Send,
    next_frame: NextFrame,
    *,
    key: SigningKey,
    purpose: str,
    target: str,
    expected: bytes,
    certificate_hash: bytes,
) -> None:
    """Prove that we hold `key` to the node that holds the key `expected`, and see that it does.

    Raises WrongKey or another PeerFault, and what `next_frame` raises.
    """
    initiator = Initiator(
        key=key, purpose=purpose, target=target, expected=(expected,), randomness=os.urandom(RANDOMNESS_BYTES)
    )
    send(initiator.hello())
    send(initiator.receive(await next_frame(), certificate_hash))
    await next_frame()  # the empty frame: it takes us


async def recognise(
    send: Send, next_frame: NextFrame, *, key: SigningKey, purpose: str, target: str, certificate_hash: bytes
) -> bytes:
    """The node key of whoever called. The caller of this decides whether to take it, and sends ACCEPTED then.

    Raises a PeerFault, and what `next_frame` raises.
    """
    responder = Responder(
        keys=lambda asked: key if asked == target else None,
        purpose=purpose,
        certificate_hash=certificate_hash,
        randomness=os.urandom(RANDOMNESS_BYTES),
    )
    send(responder.receive_hello(await next_frame()))
    responder.receive_finish(await next_frame())
    return responder.peer_key
