"""Chaos on a real network: processes die and freeze, cables go, routes break, packets get lost, under load, over eras.

DESIGN section 11: up to f of 3f + 1 may be gone and the ledger goes on; beyond f it stops rather than forks; and when
all is well again, it is in step within seconds, and nothing acknowledged is lost. Each validator is at home in its own
network namespace (`private_network`); payments go to it through its API.

`BLOCKCLOUD_CHAOS_SECONDS` says for how long things break (120), `BLOCKCLOUD_CHAOS_SEED` what breaks (default: the seed
of the run). With `-s` it tells what it does.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from blockcloud.bench.flaky_road import Weather
from blockcloud.node.config import BASE_PORT
from blockcloud.node.devnet import create_devnet
from tests.end_to_end.ledger_world import CLOSE_HEIGHTS, POLL_SECONDS, World, open_world, until
from tests.end_to_end.payments import PAYERS, Payments, flowing, streams
from tests.end_to_end.private_network import DROPS, Direction, PrivateNetwork, private_network

SECONDS = float(os.environ.get("BLOCKCLOUD_CHAOS_SECONDS", "120"))
SEED = os.environ.get("BLOCKCLOUD_CHAOS_SEED")
AFTERWARDS_SECONDS = 600  # for the last recovery, and for reading the disks
VALIDATORS = 4
ERA_LENGTH = 60  # commits; who is away for long needs a snapshot to get back in step
ERAS = 3  # at least so many begin
RECOVERY_SECONDS = 90  # after the healing, on a busy machine; alone it takes a few
PROGRESS = (20, 120)  # payments acknowledged while at most f validators are in trouble
SHORT_S, LONG_S = (0.5, 6.0), (10.0, 25.0)  # how long a fault lasts; a silent link is given up in between
LONG_SHARE = 0.15
FLAPS = (3, 8)
FLAP_S = (0.05, 1.5)
STORM = (2, 5)  # faults on top of each other

pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(SECONDS + AFTERWARDS_SECONDS)]

Strike = Callable[["Chaos"], Awaitable[str]]


class Chaos:
    """Breaks things in one world and mends them."""

    def __init__(self, world: World, network: PrivateNetwork, payments: Payments, seed: int) -> None:
        self.world, self.network, self.payments = world, network, payments
        self.choice = random.Random(seed)
        self.recoveries: list[tuple[float, str]] = []  # seconds, after what
        self.pauses: list[tuple[float, str]] = []  # without a payment acknowledged, though at most f were in trouble
        self._started = asyncio.get_running_loop().time()

    def tell(self, what: str) -> None:
        print(f"{asyncio.get_running_loop().time() - self._started:7.1f} s  {what}", flush=True)

    # One round

    async def round(self) -> None:
        """Break something, mend it, and see everybody in step again."""
        kind = self.choice.random()
        if kind < 0.5:
            what = await self._mild()
        elif kind < 0.75:
            what = await self._strike(OUTAGES)
            await self._last()
        else:
            struck = []
            for _ in range(self.choice.randint(*STORM)):
                struck.append(await self._strike([*MILD, *OUTAGES]))
                await asyncio.sleep(self.choice.uniform(*SHORT_S) / 2)
            what = "storm: " + ", ".join(struck)
        self.heal()
        await self.recovered(what)

    async def _mild(self) -> str:
        """One validator in trouble, or one pair: the ledger goes on."""
        what = await self._strike(MILD)
        wanted = len(self.payments.acknowledged) + self.choice.randint(*PROGRESS)
        watching = asyncio.create_task(self._longest_pause())
        try:
            await self._last()
            await until(lambda: self.payments.more(wanted), f"payments during {what}")
        finally:
            self.pauses.append((await ended(watching), what))
        return what

    async def _longest_pause(self) -> float:
        """The longest time in which no payment was acknowledged, until cancelled."""
        clock = asyncio.get_running_loop().time
        longest, count, since = 0.0, len(self.payments.acknowledged), clock()
        with suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(POLL_SECONDS)
                longest = max(longest, clock() - since)
                if len(self.payments.acknowledged) > count:
                    count, since = len(self.payments.acknowledged), clock()
        return longest

    async def _strike(self, strikes: list[Strike]) -> str:
        what = await self.choice.choice(strikes)(self)
        self.tell(what)
        return what

    async def _last(self) -> None:
        span = LONG_S if self.choice.random() < LONG_SHARE else SHORT_S
        await asyncio.sleep(self.choice.uniform(*span))

    def heal(self) -> None:
        """Mend the network, wake who sleeps, start who is down."""
        self.network.heal()
        for number in range(VALIDATORS):
            if number in self.world.processes:
                self.world.signal(number, signal.SIGCONT)
            else:
                self.world.start(number)

    async def recovered(self, what: str) -> None:
        """Wait until all are linked with all, take part, and commit; note how long that took."""
        clock = asyncio.get_running_loop().time
        healed, seen = clock(), 0

        async def in_step() -> bool:
            nonlocal seen
            self.world.check_alive()
            found = await self.world.statuses()
            if found is None:
                return False
            seen = seen or max(status["height"] for status in found)
            heights = [status["height"] for status in found]
            return min(heights) > seen and max(heights) - min(heights) <= CLOSE_HEIGHTS and all(map(takes_part, found))

        try:
            await until(in_step, f"recovery after {what}", RECOVERY_SECONDS)
        except AssertionError:
            self.tell(await self._picture())
            raise
        took = clock() - healed
        self.recoveries.append((took, what))
        self.tell(f"    in step after {took:.1f} s, {len(self.payments.acknowledged)} acknowledged")

    async def _picture(self) -> str:
        found = await asyncio.gather(*(self.world.status(number) for number in range(VALIDATORS)))
        keys = ("era", "height", "level", "mode", "health", "peers")
        return "\n".join(str(status and {key: status[key] for key in keys}) for status in found)

    def summary(self) -> str:
        """What happened, on a few lines."""
        payments = self.payments
        return (
            f"{len(self.recoveries)} rounds, {len(payments.acknowledged)} payments acknowledged,"
            f" refused {dict(payments.refused)}, packets on bad lines {dict(self.network.road.seen)}"
            f"\n  in step after the healing: {worst(self.recoveries)}"
            f"\n  no payment acknowledged with at most f in trouble: {worst(self.pauses)}"
        )

    # What to draw

    def one(self) -> int:
        return self.choice.randrange(VALIDATORS)

    def pair(self) -> tuple[int, int]:
        first, second = self.choice.sample(range(VALIDATORS), 2)
        return first, second

    def drop(self, directions: list[Direction]) -> str:
        how = self.choice.choice(DROPS)
        self.network.drop(directions, how)
        return how

    def weather(self) -> Weather:
        delay_s = self.choice.choice((0.0, 0.01, 0.05, 0.2))
        lost = self.choice.choice((0.0, 0.01, 0.05, 0.2))
        return Weather(lost, self.choice.choice((0.0, 0.05)), delay_s, self.choice.choice((0.0, delay_s)))

    def freeze(self, numbers: list[int]) -> None:
        for number in numbers:
            if number in self.world.processes:
                self.world.signal(number, signal.SIGSTOP)

    def kill(self, numbers: list[int]) -> None:
        self.world.kill(*(number for number in numbers if number in self.world.processes))


async def ended(watching: asyncio.Task[float]) -> float:
    """The result of a task that ends when it is cancelled."""
    watching.cancel()
    return await watching


def worst(times: list[tuple[float, str]]) -> str:
    """The median of times in seconds, and the longest of them with what they belong to."""
    falling = sorted(times, reverse=True)
    median = f"{falling[len(falling) // 2][0]:.1f} s at the median" if falling else "never"
    return median + "".join(f"\n    {seconds:5.1f} s: {what}" for seconds, what in falling[:5])


def takes_part(status: dict[str, Any]) -> bool:
    """Whether a validator is a member that writes blocks and is linked with all the others."""
    links = sum(peer["connected"] for peer in status["peers"] if peer["member"] is not None)
    return status["mode"] == "fast" and status["member"] is not None and links == VALIDATORS - 1


def outbound(one: int) -> list[Direction]:
    return [(one, other) for other in range(VALIDATORS) if other != one]


def inbound(one: int) -> list[Direction]:
    return [(other, one) for other in range(VALIDATORS) if other != one]


# At most one validator, or one pair, is in trouble.


async def killed(chaos: Chaos) -> str:
    chaos.kill([victim := chaos.one()])
    return f"kill {victim}"


async def bounced(chaos: Chaos) -> str:
    """Killed again while it starts."""
    victim, times = chaos.one(), chaos.choice.randint(2, 3)
    for _ in range(times):
        chaos.kill([victim])
        chaos.world.start(victim)
        await asyncio.sleep(chaos.choice.uniform(0, 2))
    return f"kill {victim} {times} times"


async def frozen(chaos: Chaos) -> str:
    chaos.freeze([victim := chaos.one()])
    return f"freeze {victim}"


async def isolated(chaos: Chaos) -> str:
    victim = chaos.one()
    return f"isolate {victim} ({chaos.drop([*outbound(victim), *inbound(victim)])})"


async def deaf(chaos: Chaos) -> str:
    return f"deafen {(victim := chaos.one())} ({chaos.drop(inbound(victim))})"


async def mute(chaos: Chaos) -> str:
    return f"mute {(victim := chaos.one())} ({chaos.drop(outbound(victim))})"


async def estranged(chaos: Chaos) -> str:
    one, other = chaos.pair()
    return f"part {one} and {other} ({chaos.drop([(one, other), (other, one)])})"


async def one_way(chaos: Chaos) -> str:
    direction = chaos.pair()
    return f"drop {direction[0]} to {direction[1]} ({chaos.drop([direction])})"


async def unplugged(chaos: Chaos) -> str:
    chaos.network.unplug(victim := chaos.one())
    return f"unplug {victim}"


async def taken_down(chaos: Chaos) -> str:
    chaos.network.take_down(victim := chaos.one())
    return f"take down the link of {victim}"


async def flapping(chaos: Chaos) -> str:
    victim, times = chaos.one(), chaos.choice.randint(*FLAPS)
    cut = chaos.choice.choice((chaos.network.unplug, chaos.network.take_down))
    for _ in range(times):
        cut(victim)
        await asyncio.sleep(chaos.choice.uniform(*FLAP_S))
        chaos.network.plug(victim)
        await asyncio.sleep(chaos.choice.uniform(*FLAP_S))
    return f"flap {victim} {times} times ({cut.__name__})"


async def stormy(chaos: Chaos) -> str:
    """One validator's lines are bad, each direction in its own way."""
    victim = chaos.one()
    chaos.network.spoil(outbound(victim), out := chaos.weather())
    chaos.network.spoil(inbound(victim), into := chaos.weather())
    return f"bad lines of {victim} (out {out}, in {into})"


# More than f are in trouble: the ledger may stand still until it is over.


async def split(chaos: Chaos) -> str:
    halves = chaos.choice.sample(range(VALIDATORS), VALIDATORS)
    one, other = halves[:2], halves[2:]
    between = [(a, b) for a in one for b in other]
    return f"split {one} from {other} ({chaos.drop([*between, *((b, a) for a, b in between)])})"


async def half_split(chaos: Chaos) -> str:
    """One half hears the other, and not the other way round."""
    halves = chaos.choice.sample(range(VALIDATORS), VALIDATORS)
    return f"{halves[:2]} cannot reach {halves[2:]} ({chaos.drop([(a, b) for a in halves[:2] for b in halves[2:]])})"


async def ring(chaos: Chaos) -> str:
    """Each reaches only the next one and the one after it."""
    order = chaos.choice.sample(range(VALIDATORS), VALIDATORS)
    how = chaos.drop([(order[i], order[i - 1]) for i in range(VALIDATORS)])
    return f"ring {order}: nobody reaches the one before it ({how})"


async def several_killed(chaos: Chaos) -> str:
    victims = chaos.choice.sample(range(VALIDATORS), chaos.choice.randint(2, VALIDATORS))
    chaos.kill(victims)
    return f"kill {victims}"


async def several_frozen(chaos: Chaos) -> str:
    victims = chaos.choice.sample(range(VALIDATORS), chaos.choice.randint(2, VALIDATORS))
    chaos.freeze(victims)
    return f"freeze {victims}"


async def all_unplugged(chaos: Chaos) -> str:
    for number in range(VALIDATORS):
        chaos.network.unplug(number)
    return "unplug all"


async def bad_everywhere(chaos: Chaos) -> str:
    chaos.network.spoil([each for one in range(VALIDATORS) for each in outbound(one)], weather := chaos.weather())
    return f"bad lines everywhere ({weather})"


MILD: list[Strike] = [
    *(killed, bounced, frozen, isolated, deaf, mute, estranged, one_way),
    *(unplugged, taken_down, flapping, stormy),
]
OUTAGES: list[Strike] = [split, half_split, ring, several_killed, several_frozen, all_unplugged, bad_everywhere]


@asynccontextmanager
async def spread_world(folder: Path, network: PrivateNetwork) -> AsyncIterator[World]:
    """A devnet whose validators are at home in the namespaces of `network`."""
    devnet = create_devnet(folder, VALIDATORS, base_port=BASE_PORT, era_length=ERA_LENGTH, hosts=network.addresses)
    async with open_world(folder, devnet) as world:
        world.through = {number: network.through(number) for number in range(VALIDATORS)}
        world.start()
        await world.wait_in_step()
        yield world


async def test_everything_breaks_and_nothing_is_lost(tmp_path: Path, run_seed: int) -> None:
    seed = run_seed if SEED is None else int(SEED)
    print(f"BLOCKCLOUD_CHAOS_SEED={seed} BLOCKCLOUD_CHAOS_SECONDS={SECONDS:g}")
    clock = asyncio.get_running_loop().time
    with private_network(VALIDATORS, seed) as network:
        async with spread_world(tmp_path / "net", network) as world:
            async with flowing(world.genesis, streams(world)) as payments:
                chaos = Chaos(world, network, payments, seed)
                until_s = clock() + SECONDS
                while clock() < until_s:
                    await chaos.round()
                wanted = len(payments.acknowledged) + PROGRESS[1]
                await until(lambda: payments.more(wanted), "payments after all")
            await chaos.recovered("the last payments")
            height, _ = await world.wait_equal_roots()
            found = await until(world.statuses, "all to answer")
            assert min(status["era"] for status in found) >= ERAS
            chaos.tell(f"height {height}, era {found[0]['era']}, {chaos.summary()}")
            assert all(payments.by_stream[number] for number in range(len(PAYERS))), payments.by_stream
            assert await world.stop_all() == [0] * VALIDATORS
            world.read_disks(payments.acknowledged).check()
