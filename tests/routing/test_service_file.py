"""Service files: one canonical form, the Thing Description's duties, our terms, no addresses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import Malformed, NonCanonical, Oversized, PeerFault
from blockcloud.primitives.hashes import sha256
from blockcloud.primitives.limits import SERVICE_FILE_BYTES
from blockcloud.routing.errors import AddressInServiceFile, InvalidServiceFile, UnknownCriticalTerm
from blockcloud.routing.service_file import (
    build_service_file,
    declared_ports,
    encode_service_file,
    parse_service_file,
    read_document,
    service_file_hash,
)

NAME = "thermo.kitchen.acme"
MINIMAL = build_service_file(NAME, "Thermometer", protocol="http")


def changed(**terms: object) -> bytes:
    """The minimal file with top-level terms replaced (None: removed), in JCS form."""
    document = json.loads(MINIMAL)
    for term, value in terms.items():
        term = term.replace("__", ":").replace("at_", "@")
        if value is None:
            document.pop(term, None)
        else:
            document[term] = value
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_a_minimal_file_has_what_a_thing_description_needs() -> None:
    document = parse_service_file(MINIMAL)
    assert document["@context"][0] == "https://www.w3.org/2022/wot/td/v1.1"
    assert document["title"] == "Thermometer"
    assert document["bc:name"] == NAME
    assert set(document["security"]) <= set(document["securityDefinitions"])
    assert service_file_hash(MINIMAL) == sha256(MINIMAL)
    assert encode_service_file(document) == MINIMAL
    assert len(MINIMAL) < 600


def test_ports_where_programs_expect_the_service() -> None:
    assert declared_ports(parse_service_file(MINIMAL)) == ()
    file = build_service_file(NAME, "Thermometer", terms={"bc:ports": [443, 80, 443]})
    assert declared_ports(parse_service_file(file)) == (443, 80)


def test_names_in_forms_are_fine() -> None:
    forms = [{"href": "coap://cam1.home/temp"}, {"href": "/relative"}, {"href": "bloc://x.y/z"}]
    assert parse_service_file(changed(properties={"t": {"forms": forms}}))


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://192.168.1.9:8000/x",
        "coap://localhost/temp",
        "http://2130706433/",
        "http://0x7f.0x1/",
        "http://user@10.0.0.1/",
        "//10.0.0.1/x",
        "http://1.2.3.4./",
    ],
)
def test_addresses_are_refused_wherever_they_stand(uri: str) -> None:
    for data in (changed(base=uri), changed(actions={"a": {"forms": [{"href": uri}]}}), changed(links=[{"href": uri}])):
        with pytest.raises(AddressInServiceFile):
            read_document(data)


@pytest.mark.parametrize(
    "data",
    [
        changed(at_context=None),
        changed(at_context="https://www.w3.org/2019/wot/td/v1"),
        changed(title=None),
        changed(title=""),
        changed(securityDefinitions=None),
        changed(security=None),
        changed(security="other"),
        changed(security=[["session"]]),
        changed(bc__name=None),
        changed(bc__name="Not A Name"),
        changed(bc__name=7),
        changed(bc__seq=-1),
        changed(bc__seq="1"),
        changed(bc__seq=True),
        changed(bc__prev="00"),
        changed(bc__ports=80),
        changed(bc__ports=["80"]),
        changed(bc__ports=[0]),
        changed(bc__ports=[True]),
        changed(bc__ports=[65_536]),
        changed(bc__ports=list(range(1, 10))),
        changed(bc__crit="bc:name"),
        changed(bc__crit=[1]),
        changed(bc__crit=["bc:absent"]),
        changed(bc__crit=["title"]),
        changed(base="http://[::1"),
        b"[]",
        b"null",
    ],
)
def test_breaking_a_duty_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidServiceFile):
        read_document(data)


def test_unknown_terms_are_ignored_unless_critical() -> None:
    assert parse_service_file(changed(bc__new=[1, 2]))
    assert parse_service_file(changed(bc__crit=["bc:name"]))
    critical = changed(bc__new=[1, 2], bc__crit=["bc:name", "bc:new"])
    with pytest.raises(UnknownCriticalTerm, match="bc:new"):
        parse_service_file(critical)
    assert read_document(critical)["bc:new"] == [1, 2]


@pytest.mark.parametrize("data", [MINIMAL + b"\n", MINIMAL.replace(b'":', b'": ', 1), b'{"a":1,"a":1}', b'{"a":1.0}'])
def test_only_the_canonical_form_is_taken(data: bytes) -> None:
    with pytest.raises(NonCanonical):
        read_document(data)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":NaN}', b'{"a":1' + b"0" * 5000 + b"}", b"[" * 16_000])
def test_what_is_not_json_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_document(data)


def test_the_size_is_limited() -> None:
    at_limit = build_service_file(NAME, "t", description="x")
    at_limit = build_service_file(NAME, "t", description="x" * (SERVICE_FILE_BYTES - len(at_limit) + 1))
    assert len(at_limit) == SERVICE_FILE_BYTES
    read_document(at_limit)
    with pytest.raises(Oversized):
        build_service_file(NAME, "t", description="x" * SERVICE_FILE_BYTES)
    with pytest.raises(Oversized):
        read_document(at_limit + b" ")


def test_nesting_is_limited() -> None:
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(InvalidServiceFile, match="deep"):
        build_service_file(NAME, "t", terms={"x": deep})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
terms = st.sampled_from(["@context", "title", "base", "security", "securityDefinitions", "links", "bc:name", "bc:crit"])


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_raises_a_peer_fault_only(data: bytes) -> None:
    with pytest.raises(PeerFault):
        parse_service_file(data)


@given(st.dictionaries(terms, json_values, min_size=1, max_size=3))
def test_a_mutated_file_is_taken_or_blamed_on_the_sender(values: dict[str, object]) -> None:
    try:
        data = encode_service_file({**json.loads(MINIMAL), **values})
    except PeerFault:
        return
    assert encode_service_file(parse_service_file(data)) == data
