"""Address records: signed, canonical, short-lived. Every way to get one wrong has its own error."""

from contextlib import suppress
from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import BadSignature, Malformed, NonCanonical, Oversized, PeerFault, WrongKey
from blockcloud.primitives.keys import SigningKey
from blockcloud.primitives.limits import ADDRESS_RECORD_BYTES
from blockcloud.routing.address_record import AddressRecord, Endpoint, sign_record, verify_record
from blockcloud.routing.cose import sign1
from blockcloud.routing.errors import InvalidAddressRecord, IssuedInFuture, LeaseExpired, LeaseTooLong

NOW = 1_800_000_000
SEED = bytes(range(32))
KEY = SigningKey(SEED)
ENDPOINTS = (Endpoint("tls", "127.0.0.2", 8702), Endpoint("tls", "fd00::1", 8702, 1, 5))
RECORD = AddressRecord("thermo.kitchen.acme", KEY.public, 7, NOW, NOW + 120, bytes(32), ENDPOINTS, 250)
SIGNED = sign_record(RECORD, KEY)


def resigned(claims: dict[object, object] | bytes, header: dict[object, object] | None = None) -> bytes:
    """A COSE_Sign1 made by another library's signer, over any claims and header."""
    fields = {1: -8, 4: KEY.public, 16: "application/bc-addr+cwt"} if header is None else header
    protected = cbor2.dumps(fields, canonical=True)
    payload = claims if isinstance(claims, bytes) else cbor2.dumps(claims, canonical=True)
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    signature = Ed25519PrivateKey.from_private_bytes(SEED).sign(structure)
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, payload, signature]))


def claims_of(data: bytes) -> dict[object, object]:
    claims = cbor2.loads(cbor2.loads(data).value[2])
    assert isinstance(claims, dict)
    return claims


def test_a_record_comes_back_as_it_was() -> None:
    assert verify_record(SIGNED, NOW) == RECORD
    assert len(SIGNED) < 330


def test_other_peoples_cose_makes_and_checks_the_same_bytes() -> None:
    protected, _, payload, signature = cbor2.loads(SIGNED).value
    structure = cbor2.dumps(["Signature1", protected, b"", payload])
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(signature, structure)
    assert resigned(claims_of(SIGNED)) == SIGNED


@given(
    st.builds(
        AddressRecord,
        name=st.sampled_from(["a", "x.y", "0.xn--bcher-kva.acme"]),
        instance_key=st.just(KEY.public),
        sequence=st.integers(0, 2**63 - 1),
        issued_s=st.integers(0, 2**33),
        expires_s=st.just(0),
        service_file_hash=st.sampled_from([b"", bytes(32)]),
        endpoints=st.lists(
            st.one_of(
                st.builds(
                    Endpoint,
                    st.sampled_from(["tls", "quic", "relay", "later-kind"]),
                    st.sampled_from(["127.0.0.1", "::1", "a-b.example"]),
                    st.integers(1, 65535),
                    st.integers(0, 65535),
                    st.integers(0, 65535),
                ),
                st.just(Endpoint("unix", "/run/user/1000/a b.sock", 0)),
            ),
            max_size=8,
        ).map(tuple),
        load=st.integers(0, 1000),
    ),
    st.integers(1, 3600),
)
def test_every_valid_record_round_trips(record: AddressRecord, lease_s: int) -> None:
    record = replace(record, expires_s=record.issued_s + lease_s)
    assert verify_record(sign_record(record, KEY), record.issued_s) == record


@pytest.mark.parametrize(("now_s", "error"), [(NOW - 31, IssuedInFuture), (NOW + 150, LeaseExpired)])
def test_clocks_may_differ_by_thirty_seconds_and_no_more(now_s: int, error: type[PeerFault]) -> None:
    verify_record(SIGNED, NOW - 30)
    verify_record(SIGNED, NOW + 149)
    with pytest.raises(error):
        verify_record(SIGNED, now_s)


def test_a_lease_is_an_hour_at_most() -> None:
    sign_record(replace(RECORD, expires_s=NOW + 3_600), KEY)
    with pytest.raises(LeaseTooLong):
        sign_record(replace(RECORD, expires_s=NOW + 3_601), KEY)
    with pytest.raises(LeaseTooLong):
        verify_record(resigned({**claims_of(SIGNED), 4: NOW + 3_601}), NOW)


def test_an_instance_signs_for_itself_only() -> None:
    with pytest.raises(WrongKey):
        sign_record(RECORD, SigningKey(bytes(32)))


def test_a_record_under_another_key_is_refused() -> None:
    other = SigningKey(bytes(32))
    header: dict[object, object] = {1: -8, 4: other.public, 16: "application/bc-addr+cwt"}
    with pytest.raises(BadSignature):
        verify_record(resigned(claims_of(SIGNED), header), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {2: "Not A Name"},
        {2: 5},
        {4: NOW},
        {4: -1},
        {6: "now"},
        {-65537: -1},
        {-65537: 2**63},
        {-65537: True},
        {-65538: b"short"},
        {-65538: "text"},
        {-65539: 5},
        {-65539: [["tls", "h", 1, 0, 0]] * 9},
        {-65539: [["tls", "h", 1, 0]]},
        {-65539: [["tls", "h", 0, 0, 0]]},
        {-65539: [["tls", "h", 65536, 0, 0]]},
        {-65539: [["tls", "a b", 1, 0, 0]]},
        {-65539: [["tls", "A", 1, 0, 0]]},
        {-65539: [["tls", "::01", 1, 0, 0]]},
        {-65539: [["TLS", "h", 1, 0, 0]]},
        {-65539: [[1, "h", 1, 0, 0]]},
        {-65539: [["unix", "/a", 1, 0, 0]]},
        {-65539: [["unix", "a", 0, 0, 0]]},
        {-65539: [["unix", "/a/", 0, 0, 0]]},
        {-65539: [["unix", "/" + 107 * "a", 0, 0, 0]]},
        {-65539: [["tls", "/a", 1, 0, 0]]},
        {-65540: 1001},
        {-65540: 0.5},
        {99: 1},
    ],
)
def test_a_wrong_claim_is_refused(changes: dict[object, object]) -> None:
    with pytest.raises(InvalidAddressRecord):
        verify_record(resigned({**claims_of(SIGNED), **changes}), NOW)


@pytest.mark.parametrize("claim", [2, 4, 6, -65537, -65538, -65539, -65540])
def test_a_missing_claim_is_refused(claim: int) -> None:
    claims = claims_of(SIGNED)
    del claims[claim]
    with pytest.raises(InvalidAddressRecord):
        verify_record(resigned(claims), NOW)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {1: -8, 4: KEY.public},
        {1: -7, 4: KEY.public, 16: "application/bc-addr+cwt"},
        {1: -8, 4: KEY.public, 16: "application/other+cwt"},
        {1: -8, 4: KEY.public[:31], 16: "application/bc-addr+cwt"},
        {1: -8, 4: "text", 16: "application/bc-addr+cwt"},
        {1: -8, 4: KEY.public, 16: "application/bc-addr+cwt", 2: [1]},
    ],
)
def test_a_wrong_header_is_refused(header: dict[object, object]) -> None:
    with pytest.raises(Malformed):
        verify_record(resigned(claims_of(SIGNED), header), NOW)


def test_only_the_deterministic_encoding_is_taken() -> None:
    protected, _, payload, signature = cbor2.loads(SIGNED).value
    reversed_payload = cbor2.dumps(dict(reversed(claims_of(SIGNED).items())))
    assert reversed_payload != payload
    long_form = b"\xd2\x84\x59" + len(protected).to_bytes(2, "big") + SIGNED[4:]
    assert cbor2.loads(long_form) == cbor2.loads(SIGNED)
    for data in (resigned(reversed_payload), long_form):
        with pytest.raises(NonCanonical):
            verify_record(data, NOW)
    indefinite = b"\xd2\x9f" + SIGNED[2:] + b"\xff"
    trailing = SIGNED + b"\x00"
    untagged = SIGNED[1:]
    unprotected = cbor2.dumps(cbor2.CBORTag(18, [protected, {4: b"x"}, payload, signature]))
    for data in (indefinite, trailing, untagged, unprotected):
        with pytest.raises((Malformed, NonCanonical)):
            verify_record(data, NOW)


def test_an_oversized_record_is_refused() -> None:
    with pytest.raises(Oversized):
        verify_record(bytes(ADDRESS_RECORD_BYTES + 1), NOW)


@given(st.integers(0, len(SIGNED) * 8 - 1))
def test_no_bit_can_be_flipped(position: int) -> None:
    data = bytearray(SIGNED)
    data[position // 8] ^= 1 << position % 8
    with pytest.raises(PeerFault):
        verify_record(bytes(data), NOW)


@given(st.integers(0, len(SIGNED) - 1))
def test_no_part_is_a_record(length: int) -> None:
    with pytest.raises(PeerFault):
        verify_record(SIGNED[:length], NOW)


cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.integers(-3, 20) | st.text(max_size=3), children, max_size=4)
        | st.builds(cbor2.CBORTag, st.sampled_from([0, 1, 2, 18, 28, 29, 35, 258, 999]), children)
    ),
    max_leaves=10,
)


@given(st.binary(max_size=300) | cbor_values.map(lambda value: cbor2.dumps(value)))
def test_garbage_raises_a_peer_fault_only(data: bytes) -> None:
    with pytest.raises(PeerFault):
        verify_record(data, NOW)


@given(st.dictionaries(st.sampled_from([2, 4, 6, -65537, -65538, -65539, -65540]), cbor_values, min_size=1))
def test_signed_garbage_raises_a_peer_fault_only(changes: dict[object, object]) -> None:
    try:
        data = resigned({**claims_of(SIGNED), **changes})
    except (cbor2.CBOREncodeError, ValueError):
        return
    with suppress(PeerFault):
        verify_record(data, NOW)


def test_the_signer_refuses_what_the_verifier_would() -> None:
    with pytest.raises(InvalidAddressRecord):
        sign_record(replace(RECORD, endpoints=(Endpoint("tls", "h", 70_000),)), KEY)
    with pytest.raises(InvalidAddressRecord):
        sign_record(replace(RECORD, load=-1), KEY)
    assert sign1({1: 2}, "a/b", KEY)
