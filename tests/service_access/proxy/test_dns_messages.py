"""DNS messages without sockets: what is answered, with what, how large, and what gets no answer."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from blockcloud.primitives.errors import Malformed, Oversized
from blockcloud.service_access.proxy.dns_messages import QUERY_BYTES, TTL_SECONDS, Outcome, read_query, response

LABEL = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?\Z")
NAMES = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
ADDRESS = "127.77.1.2"


def answered(data: bytes, outcome: Outcome = Outcome.FOUND) -> dns.message.Message:
    return dns.message.from_wire(response(read_query(data), outcome, ADDRESS if outcome is Outcome.FOUND else ""))


@settings(max_examples=40)
@given(
    NAMES,
    st.sampled_from(["A", "AAAA", "MX", "TXT", "HTTPS", "SRV", "SOA"]),
    st.sampled_from(list(Outcome)),
    st.sampled_from([None, 0, 100, 512, 1_232, 65_000]),
)
def test_a_found_name_has_one_address_and_nothing_else(
    name: str, kind: str, outcome: Outcome, payload: int | None
) -> None:
    query = dns.message.make_query(name, kind, use_edns=False)
    if payload is not None:
        query.use_edns(0, payload=payload)
    data = query.to_wire()
    assert read_query(data).host == name.lower()
    raw = response(read_query(data), outcome, ADDRESS)
    answer = dns.message.from_wire(raw)
    assert query.is_response(answer)
    assert answer.rcode() == outcome.value
    assert not answer.authority
    texts = [item.to_text() for item in answer.answer]
    found = outcome is Outcome.FOUND and kind == "A"
    assert texts == ([f"{query.question[0].name} {TTL_SECONDS} IN A {ADDRESS}"] if found else [])
    assert len(raw) <= max(512, min(payload or 0, 1_232))
    assert (answer.edns >= 0) == (payload is not None)


@given(st.binary(max_size=QUERY_BYTES))
def test_noise_is_refused_or_answered_without_an_address(data: bytes) -> None:
    try:
        query = read_query(data)
    except Malformed:
        return
    assert ADDRESS not in str(response(query, Outcome.UNKNOWN))


@settings(max_examples=60)
@given(NAMES, st.integers(0, 10_000), st.integers(1, 255))
def test_a_query_with_a_wrong_byte(name: str, place: int, change: int) -> None:
    data = bytearray(dns.message.make_query(name, "A", use_edns=0).to_wire())
    data[place % len(data)] ^= change
    try:
        query = read_query(bytes(data))
    except Malformed:
        return
    assume(query.rcode == dns.rcode.NOERROR)
    answer = dns.message.from_wire(response(query, Outcome.FOUND, ADDRESS))
    assert answer.id == int.from_bytes(data[:2])


def test_responses_and_oversized_messages_get_no_answer() -> None:
    query = dns.message.make_query("files.acme", "A")
    with pytest.raises(Malformed):
        read_query(dns.message.make_response(query).to_wire())
    with pytest.raises(Oversized):
        read_query(bytes(QUERY_BYTES + 1))
    with pytest.raises(Malformed):
        read_query(query.to_wire() + b"\x00")
    with pytest.raises(Malformed):
        read_query(b"")


def test_what_is_no_plain_question() -> None:
    plain = dns.message.make_query("files.acme", "A")
    status = dns.message.make_query("files.acme", "A")
    status.set_opcode(dns.opcode.STATUS)
    assert answered(status.to_wire()).rcode() == dns.rcode.NOTIMP
    empty = dns.message.Message()
    assert answered(empty.to_wire()).rcode() == dns.rcode.FORMERR
    double = bytearray(plain.to_wire() + plain.to_wire()[12:])
    double[5] = 2
    assert answered(bytes(double)).rcode() == dns.rcode.FORMERR
    for kind in ("ANY", "AXFR"):
        assert answered(dns.message.make_query("files.acme", kind).to_wire()).rcode() == dns.rcode.REFUSED
    assert answered(dns.message.make_query("files.acme", "A", "CH").to_wire()).rcode() == dns.rcode.REFUSED
    later = dns.message.make_query("files.acme", "A")
    later.use_edns(1)
    assert answered(later.to_wire()).rcode() == dns.rcode.BADVERS
    assert answered(plain.to_wire()).flags & dns.flags.RA
