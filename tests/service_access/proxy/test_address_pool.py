"""The pool of loopback addresses: stable, never shared, never taken from somebody who is using one."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blockcloud.primitives.errors import BadConfiguration
from blockcloud.service_access.proxy.address_pool import REMEMBERED_MS, AddressPool
from blockcloud.service_access.proxy.errors import PoolExhausted

NAMES = st.sampled_from([f"service-{number}" for number in range(12)])
RANGE = "127.9.9.0/29"  # six usable addresses
SERVICES = 4


class Pools(RuleBasedStateMachine):
    """What programs were told, against what the pool does later."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.busy: set[str] = set()
        self.told: dict[str, tuple[str, float]] = {}  # name -> address, when last
        self.held: dict[str, str] = {}
        self.pool = AddressPool(RANGE, lambda name: name in self.busy, services=SERVICES)

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        protected = {
            each for each in self.held if each in self.busy or self.now_ms - self.told[each][1] < REMEMBERED_MS
        }
        try:
            assigned = self.pool.assign(name, self.now_ms)
        except PoolExhausted:
            assert name not in self.held
            assert len(protected) == SERVICES
            return
        if assigned.evicted:
            assert assigned.evicted not in protected
            candidates = [each for each in self.held if each not in protected]
            assert assigned.evicted == min(candidates, key=lambda each: self.told[each][1])
            del self.held[assigned.evicted]
        if name in self.held:
            assert assigned.address == self.held[name]
        assert ipaddress.ip_address(assigned.address) in list(ipaddress.ip_network(RANGE).hosts())
        self.held[name] = assigned.address
        self.told[name] = assigned.address, self.now_ms
        self.now_ms += 1

    @rule(name=NAMES)
    def connects(self, name: str) -> None:
        if name in self.held:
            self.busy.add(name)

    @rule(name=NAMES)
    def leaves(self, name: str) -> None:
        self.busy.discard(name)

    @rule(seconds=st.integers(1, 90))
    def time_passes(self, seconds: int) -> None:
        self.now_ms += seconds * 1_000

    @invariant()
    def no_two_share_an_address(self) -> None:
        assert len(set(self.held.values())) == len(self.held) == len(self.pool) <= SERVICES


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=30, stateful_step_count=30)


def test_addresses_go_round_before_one_is_given_again() -> None:
    pool = AddressPool(RANGE, lambda _: False, services=1)
    given = [pool.assign(f"n{number}", number * REMEMBERED_MS).address for number in range(7)]
    assert len(set(given[:6])) == 6
    assert given[6] == given[0]


def test_an_address_that_is_held_is_passed_over_when_the_range_goes_round() -> None:
    pool = AddressPool(RANGE, lambda name: name == "busy", services=2)
    held = pool.assign("busy", 0).address
    others = [pool.assign(f"n{number}", (number + 1) * REMEMBERED_MS).address for number in range(12)]
    assert held not in others
    assert pool.assign("busy", 0).address == held


def test_what_nobody_was_told_is_given_up() -> None:
    pool = AddressPool(RANGE, lambda _: False, services=1)
    pool.assign("a", 0)
    with pytest.raises(PoolExhausted):
        pool.assign("b", 0)
    pool.release("a")
    assert pool.assign("b", 0).address == "127.9.9.2"


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.0/31", "0.0.0.0/0", "127.0.0.1/16", "::1/128", "x"])
def test_only_ranges_of_loopback(text: str) -> None:
    with pytest.raises(BadConfiguration):
        AddressPool(text, lambda _: False)
