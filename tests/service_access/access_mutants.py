"""Planted bugs of the service access layer: its table, its links, its edge nodes; and the tests that must find them."""

from __future__ import annotations

from tests.transaction_chain.mutants import PYTEST, TESTS, Mutant


def judge(*files: str) -> tuple[str, ...]:
    """The quick tests of these files below tests/service_access."""
    asynchronous = ("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto", "-m", "not long")
    places = tuple(str(TESTS / "service_access" / each) for each in files)
    return (*PYTEST, *asynchronous, "--import-mode=importlib", *places)


SERVICE_TABLE = "service_access/service_table.py"
VERDICTS = "service_access/verdicts.py"
QUIC_LISTENER = "service_access/links/quic_listener.py"
UNIX = "service_access/links/unix.py"
DATAGRAMS = "service_access/datagrams.py"
FEED_CORE = "service_access/edge/feed/core.py"
CACHE = "service_access/edge/cache.py"
CACHING_NODE = "service_access/edge/caching_node.py"
HTTP_SIGNATURE = "service_access/edge/http_signature.py"

TABLE = judge("test_service_table.py", "test_learned_rules.py", "test_steering_arrivals.py")
QUIC = judge("test_quic_links.py", "test_quic_strangers.py")
UNIX_LINKS = judge("test_unix_links.py")
SESSION_DATAGRAMS = judge("test_session_datagrams.py")
FEED = judge("edge/test_feed_core.py")
EDGE_CACHE = judge("edge/test_edge_cache.py")
EDGE_NODE = judge("edge/test_caching_node.py")
SIGNATURES = judge("edge/test_http_signature.py")

ACCESS = [
    Mutant(
        "the shortest match of the service table wins",
        SERVICE_TABLE,
        'return [name, *("*." + ".".join(labels[i:]) for i in range(1, len(labels))), ANY]',
        'return [ANY, *("*." + ".".join(labels[i:]) for i in range(1, len(labels))), name]',
        TABLE,
    ),
    Mutant(
        "a listener comes before what the user says of it",
        SERVICE_TABLE,
        "    return rule.priority, rule.action is Action.DEMUX\n",
        "    return rule.priority, False\n",
        TABLE,
    ),
    Mutant(
        "what was learned lets sessions in",
        SERVICE_TABLE,
        "        if incoming or not learned:\n",
        "        if not learned:\n",
        TABLE,
    ),
    Mutant(
        "rules of the table do not time out",
        SERVICE_TABLE,
        "        while self._ends and self._ends[0][0] <= now_ms:\n",
        "        while self._ends and self._ends[0][0] < 0:\n",
        TABLE,
    ),
    Mutant(
        "strangers who wait take the places of connects",
        VERDICTS,
        "sum(each.arrival is arrival for each in self._held.values()) >= limit",
        "len(self._held) >= limit",
        TABLE,
    ),
    Mutant(
        "a session that comes in is forwarded elsewhere",
        VERDICTS,
        "        if held.arrival and verdict.fate is Fate.FORWARD:\n",
        "        if False:\n",
        TABLE,
    ),
    Mutant(
        "a retry token is good for any sender",
        QUIC_LISTENER,
        'repr(address[:2]).encode() + b"\\x00" + body',
        "body",
        QUIC,
    ),
    Mutant(
        "a retry token is good for ever",
        QUIC_LISTENER,
        "        if not 0 <= now_s - int.from_bytes(body[:8]) <= TOKEN_SECONDS:\n",
        "        if False:\n",
        QUIC,
    ),
    Mutant(
        "strangers by QUIC are never asked to prove their address",
        QUIC_LISTENER,
        "        elif len(self._half_open) >= RETRY_FROM:\n",
        "        elif len(self._half_open) < 0:\n",
        QUIC,
    ),
    Mutant(
        "the ways to a QUIC link stay when it has ended",
        QUIC_LISTENER,
        "            self._routes.pop(connection_id, None)\n",
        "            continue\n",
        QUIC,
    ),
    Mutant(
        "a Unix socket of another user is taken",
        UNIX,
        "    if user not in (0, os.geteuid()):\n",
        "    if user < 0:\n",
        UNIX_LINKS,
    ),
    Mutant("everybody may connect to a Unix socket", UNIX, "os.umask(0o177)", "os.umask(0)", UNIX_LINKS),
    Mutant(
        "all Unix links have one binding",
        UNIX,
        'return tagged_hash("unix-link/v1", greeting)',
        'return tagged_hash("unix-link/v1", b"")',
        UNIX_LINKS,
    ),
    Mutant(
        "a listener takes a successor's socket file along",
        UNIX,
        "        if _identity(self._path) == self._identity:\n",
        "        if self._identity:\n",
        UNIX_LINKS,
    ),
    Mutant(
        "datagrams wait without a limit",
        DATAGRAMS,
        "        if len(self._waiting) >= DATAGRAMS_WAITING:\n",
        "        if len(self._waiting) < 0:\n",
        SESSION_DATAGRAMS,
    ),
    Mutant(
        "a reading that came twice counts twice",
        FEED_CORE,
        "                if verdict is not Verdict.FRESH:\n",
        "                if verdict is None:\n",
        FEED,
    ),
    Mutant(
        "the last entry of another feed is taken again",
        FEED_CORE,
        "if offset > reached]",
        "if offset >= reached]",
        FEED,
    ),
    Mutant(
        "how far another feed was taken is not made durable",
        FEED_CORE,
        "            {log: self.upstreams[log] for log in self._changed_upstreams},\n",
        "            {},\n",
        FEED,
    ),
    Mutant(
        "an answer is fresh beyond its signature",
        CACHE,
        " and self.age_s(now) < fresh_s and now < self.until_s",
        " and self.age_s(now) < fresh_s",
        EDGE_CACHE,
    ),
    Mutant(
        "an answer that varies is given to whoever asks otherwise",
        CACHE,
        "            if all(combined(request.fields, name) == value for name, value in variant):\n",
        "            if variant is not None:\n",
        EDGE_CACHE,
    ),
    Mutant(
        "who was let in once is let in for ever",
        CACHING_NODE,
        "        if now < holds_until:\n",
        "        if before is not None:\n",
        EDGE_NODE,
    ),
    Mutant(
        "the content of a signed answer is not compared",
        HTTP_SIGNATURE,
        '    if _read_digest(_single(response.fields, "content-digest")) != sha256(response.body):\n',
        '    if _read_digest(_single(response.fields, "content-digest")) is None:\n',
        SIGNATURES,
    ),
    Mutant(
        "an answer to another name is good",
        HTTP_SIGNATURE,
        "    if served != name:\n",
        "    if not served:\n",
        SIGNATURES,
    ),
    Mutant(
        "an answer that is over is good",
        HTTP_SIGNATURE,
        "    if said.expires <= now_s:\n",
        "    if said.expires <= 0:\n",
        SIGNATURES,
    ),
    Mutant(
        "a signature may leave out what it must cover",
        HTTP_SIGNATURE,
        "    missing = [each for each in REQUIRED if each not in covered]\n",
        "    missing = [each for each in REQUIRED if each is None]\n",
        SIGNATURES,
    ),
]
