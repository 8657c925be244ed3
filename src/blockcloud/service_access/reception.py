"""Where links come in: each is authenticated in a task of its own and then given to its session, new or old.

How many may be half open is bounded over all kinds of link, and so is the time that each may take.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from blockcloud.primitives.codec import encode
from blockcloud.primitives.errors import Busy, PeerFault, TimedOut, Unreachable
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import HALF_OPEN_HANDSHAKES, HANDSHAKE_SECONDS, SESSIONS
from blockcloud.service_access.admission import AccessRequest
from blockcloud.service_access.errors import Draining, TooMany, UnexpectedFrame, UnknownSession
from blockcloud.service_access.frames import (
    RESUME_NONCE_BYTES,
    Admitted,
    HandshakeFrame,
    Kind,
    Proof,
    Resume,
    encode_frame,
    encode_handshake,
)
from blockcloud.service_access.handshake import RANDOMNESS_BYTES, Responder
from blockcloud.service_access.hello import PURPOSE, SessionHello, read_hello
from blockcloud.service_access.links.link import Link, time_limit
from blockcloud.service_access.service_table import Action, Rule
from blockcloud.service_access.session import Role
from blockcloud.service_access.steering import hold_arrival

if TYPE_CHECKING:
    from blockcloud.service_access.endpoint import BoundName, ServiceEndpoint

log = structlog.get_logger(__name__)


class Reception:
    """Serves the links that come in at `endpoint`."""

    def __init__(self, endpoint: ServiceEndpoint) -> None:
        self._endpoint = endpoint
        self.half_open: set[asyncio.Task[None]] = set()

    def incoming(self, open_link: Callable[[], Awaitable[Link]]) -> bool:
        """Somebody has come to one of the listeners; see `links.kind.Incoming`."""
        if len(self.half_open) >= HALF_OPEN_HANDSHAKES:
            self._endpoint.faults["too_many"] += 1
            return False
        task = asyncio.get_running_loop().create_task(self._serve(open_link))
        self.half_open.add(task)
        task.add_done_callback(self.half_open.discard)
        return True

    async def close(self) -> None:
        """Drop what is half open."""
        for task in list(self.half_open):
            task.cancel()
        await asyncio.gather(*self.half_open, return_exceptions=True)

    async def _serve(self, open_link: Callable[[], Awaitable[Link]]) -> None:
        """Authenticate one incoming link and give it to its session. Whatever the peer sends, nobody else notices."""
        link: Link | None = None
        try:
            async with time_limit(HANDSHAKE_SECONDS * 1_000, "the peer did not finish its handshake"):
                link = await open_link()
                first = await link.next_frame()
                if isinstance(first, HandshakeFrame) and first.kind is Kind.HELLO:
                    await self._serve_hello(link, first)
                elif isinstance(first, Resume):
                    await self._serve_resume(link, first)
                else:
                    raise UnexpectedFrame("a link begins with HELLO or RESUME", frame=type(first).__name__)
        except PeerFault as fault:
            self._endpoint.faults[fault.code] += 1
            log.info("link_refused", code=fault.code, reason=str(fault))
            if link is not None:
                link.refuse(fault)
        except (TimedOut, Unreachable, Busy) as error:
            self._endpoint.faults[error.code] += 1
            if link is not None:
                link.abort()
        except asyncio.CancelledError:
            if link is not None:
                link.abort()
            raise

    async def _serve_hello(self, link: Link, first: HandshakeFrame) -> None:
        endpoint = self._endpoint
        # Said before the name is known, so it is about all names of the endpoint.
        guarded = endpoint.is_guarded or endpoint.table.may_delay()
        rule: Rule | None = None

        def key_of(name: str) -> SigningKey | None:
            nonlocal rule
            bound, rule = endpoint.bound_name(name), endpoint.rule_for(name)
            return bound.key if bound is not None and rule is not None and rule.action is not Action.DROP else None

        payload = encode(SessionHello(endpoint.parameters.buffer_bytes, endpoint.addresses, guarded))
        responder = Responder(
            keys=key_of,
            purpose=PURPOSE,
            certificate_hash=link.binding,
            randomness=os.urandom(RANDOMNESS_BYTES),
            payload=payload,
        )
        reply = responder.receive_hello(first.message)
        if responder.target in endpoint.draining:
            raise Draining(name=responder.target)
        link.send(encode_handshake(Kind.REPLY, reply))
        await asyncio.sleep(0)  # the reply is on its way, and both sides compute at the same time
        responder.agree()
        finish = await link.next_frame()
        if not isinstance(finish, HandshakeFrame) or finish.kind is not Kind.FINISH:
            raise UnexpectedFrame("FINISH was expected", frame=type(finish).__name__)
        responder.receive_finish(finish.message)
        name, key = responder.target, responder.peer_key
        gate = self._with_room(name).gate
        hello = read_hello(responder.peer_payload)
        request = AccessRequest(name, key, link.peer_host(), hello.role, hello.grant)
        if gate is not None:
            gate.admit(request)
        if rule is not None and rule.action is Action.DELAY:
            await hold_arrival(endpoint, rule, name, key)
        bound = self._with_room(name)
        session = endpoint.new_session(Role.RESPONDER, responder.secret, hello, name=name, peer_key=key)
        bound.queue.put_nowait(session)
        if guarded:
            link.send(encode_frame(Admitted(gate.digest if gate is not None else b"")))
        if gate is not None:
            gate.opened(request, session)
        session.adopt(link, 0)

    def _with_room(self, name: str) -> BoundName:
        """Whoever answers for `name`, if another session can begin. Raises TooMany."""
        endpoint = self._endpoint
        if len(endpoint.sessions) >= SESSIONS:
            raise TooMany("as many sessions as there may be", limit=SESSIONS)
        bound = endpoint.bound_name(name)
        if bound is None or bound.queue.full():
            raise TooMany("the service takes no more sessions now", name=name)
        return bound

    async def _serve_resume(self, link: Link, first: Resume) -> None:
        endpoint = self._endpoint
        session = endpoint.sessions.get(first.session_id)
        if session is None:
            raise UnknownSession
        nonce = os.urandom(RESUME_NONCE_BYTES)
        attempt, challenge = session.core.resume_asked(first, nonce, link.binding, endpoint.addresses)
        link.send(challenge)
        proof = await link.next_frame()
        if not isinstance(proof, Proof):
            raise UnexpectedFrame("PROOF was expected", frame=type(proof).__name__)
        session.core.proven(attempt, proof, endpoint.now_ms())
        session.adopt(link, attempt.counter)
