"""DNS messages of the stub (RFC 1035, 6891), read and written by `dnspython`; sans-IO.

The stub knows one kind of answer: an IPv4 address of its own loopback range, good for a few seconds. It asks nobody
else, so nothing that others say can get into an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from blockcloud.primitives.errors import Malformed, Oversized

TTL_SECONDS: Final = 5
QUERY_BYTES: Final = 1_024
PLAIN_RESPONSE_BYTES: Final = 512
RESPONSE_BYTES: Final = 1_232


class Outcome(Enum):
    """What is known of a host."""

    FOUND = dns.rcode.NOERROR
    UNKNOWN = dns.rcode.NXDOMAIN
    NOT_OURS = dns.rcode.REFUSED
    FAILED = dns.rcode.SERVFAIL


@dataclass(frozen=True)
class Query:
    """A query, or what is wrong with it in `rcode` (NOERROR: nothing)."""

    message: dns.message.Message
    host: str
    wants_address: bool
    rcode: dns.rcode.Rcode
    response_bytes: int


def read_query(data: bytes) -> Query:
    """The query in `data`. Raises Oversized, Malformed for what gets no answer: an answer to it could be its twin."""
    if len(data) > QUERY_BYTES:
        raise Oversized("a DNS query is larger than its limit", bytes=len(data), limit=QUERY_BYTES)
    try:
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, IndexError) as error:
        raise Malformed(f"not a DNS message: {type(error).__name__}") from None
    if message.flags & dns.flags.QR:
        raise Malformed("a DNS response where a query was expected")
    limit = PLAIN_RESPONSE_BYTES
    if message.edns >= 0:
        limit = min(max(message.payload, PLAIN_RESPONSE_BYTES), RESPONSE_BYTES)
    rcode = _fault(message)
    if rcode != dns.rcode.NOERROR:
        return Query(message, "", False, rcode, limit)
    question = message.question[0]
    host = question.name.to_text(omit_final_dot=True).lower()
    return Query(message, host, question.rdtype == dns.rdatatype.A, rcode, limit)


def _fault(message: dns.message.Message) -> dns.rcode.Rcode:
    if message.opcode() != dns.opcode.QUERY:
        return dns.rcode.NOTIMP
    if len(message.question) != 1:
        return dns.rcode.FORMERR
    if message.edns > 0:
        return dns.rcode.BADVERS
    question = message.question[0]
    transfer = (dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.ANY)
    if question.rdclass != dns.rdataclass.IN or question.rdtype in transfer:
        return dns.rcode.REFUSED
    return dns.rcode.NOERROR


def response(query: Query, outcome: Outcome = Outcome.FOUND, address: str = "") -> bytes:
    """The answer to `query`, never larger than its sender takes. A found host has an IPv4 address and nothing else."""
    message = dns.message.make_response(query.message, recursion_available=True, our_payload=RESPONSE_BYTES)
    faulty = query.rcode != dns.rcode.NOERROR
    message.set_rcode(query.rcode if faulty else dns.rcode.Rcode(outcome.value))
    if faulty and len(query.message.question) > 1:
        message.question = []
    if not faulty and outcome is Outcome.FOUND and query.wants_address:
        owner = query.message.question[0].name
        message.answer.append(dns.rrset.from_text(owner, TTL_SECONDS, "IN", "A", address))
    return message.to_wire(max_size=query.response_bytes)
