"""Addresses of links: one text for each, and nothing of a kind that is not known here is ever dialled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.primitives.errors import Malformed
from blockcloud.routing.address_record import Endpoint
from blockcloud.service_access.addresses import DIALLED_KINDS, Address, check_addresses, dialled, parse_address
from blockcloud.service_access.connector import Connector
from blockcloud.service_access.resolution import Instance
from blockcloud.service_access.service_table import Action, Rule
from tests.service_access.access_world import NAME, World, bounded

LATER = Address("later-kind", "what only a later version reads", 0)


@given(
    st.one_of(
        st.builds(
            Address,
            st.sampled_from(("tls", "quic", "relay")),
            st.sampled_from(("127.0.0.1", "::1", "host.example")),
            st.integers(0, 65_535),
        ),
        st.builds(Address, st.just("unix"), st.sampled_from(("/a.sock", "/run/a b/c:1")), st.just(0)),
    )
)
def test_the_text_of_an_address_is_read_back(address: Address) -> None:
    assert parse_address(str(address)) == address
    if address.port or address.kind == "unix":
        check_addresses((address,))


def test_what_people_type() -> None:
    assert parse_address("127.0.0.1:80") == Address("tls", "127.0.0.1", 80)
    assert parse_address("tls:[::1]:0") == Address("tls", "::1", 0)
    assert str(Address("tls", "::1", 5)) == "[::1]:5"
    assert str(Address("quic", "127.0.0.1", 5)) == "quic:127.0.0.1:5"


@pytest.mark.parametrize(
    "text", ["", "quic", "quic:", "quic:5", "unix:", "unix:a", "unix:/" + 107 * "a", "smoke:h:1", 5]
)
def test_malformed_texts(text: object) -> None:
    with pytest.raises(Malformed):
        parse_address(text)


def test_kinds_of_later_versions_are_skipped() -> None:
    known = Address("tls", "h", 1)
    check_addresses((LATER, known))
    assert dialled((LATER, known)) == [known]
    endpoints = (Endpoint("later-kind", "h", 9), Endpoint("tls", "h", 2, 7), Endpoint("tls", "h", 1, 3))
    instance = Instance(bytes(32), endpoints, 1, 1)
    assert instance.addresses() == [Address("tls", "h", 1), Address("tls", "h", 2)]
    assert instance.priority() == 3
    assert "later-kind" not in DIALLED_KINDS


async def test_a_peer_with_addresses_of_later_kinds_is_found_at_the_others(world: World) -> None:
    listener, endpoint, provider, consumer = await world.pair()
    provider.announce_move((LATER, *listener.addresses))
    await bounded(consumer.attached_beyond(0))
    assert consumer.core.peer_addresses[-1] == listener.addresses[0]
    await provider.write(b"found")
    assert await bounded(consumer.read()) == b"found"
    endpoint.table.add(Rule(NAME, Action.FORWARD, listener.addresses), 0)
    await bounded(Connector(endpoint, world.registry).connect(NAME))
