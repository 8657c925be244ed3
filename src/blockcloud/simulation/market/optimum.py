"""The clairvoyant optimum: the most that all traders together could gain, known to one who knows all of the future.

A bid and an ask may trade if both are there in some round, and then gain what the good is worth to the buyer minus what
it costs the seller. The optimum is the heaviest matching of bids to asks. It is found as textbooks do it (Jonker and
Volgenant: each bid in turn takes the shortest augmenting path, or stays alone at no gain), and what is returned is no
matter of trust: the prices that the search leaves behind (one for each trader, none negative, no possible pair worth
more than its two prices) are a solution of the dual linear program. Its value is an upper bound for every matching, and
it is asserted to be the value of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple


class Trader(NamedTuple):
    """Who is there from `arrival` to `departure`, both included, and what one unit is worth to him or costs him."""

    is_buyer: bool
    value: int
    arrival: int
    departure: int


def could_meet(one: Trader, other: Trader) -> bool:
    """Whether both are there in some round."""
    return one.arrival <= other.departure and other.arrival <= one.departure


def optimal_gain(traders: Sequence[Trader]) -> int:
    """The gain of the heaviest matching, one unit each."""
    buyers = [trader for trader in traders if trader.is_buyer]
    sellers = sorted((trader for trader in traders if not trader.is_buyer), key=lambda seller: seller.arrival)
    pairs = _worthwhile_pairs(buyers, sellers)
    search = _Search(pairs, len(sellers))
    for buyer in sorted(range(len(buyers)), key=lambda number: buyers[number].arrival):
        search.add(buyer)
    return search.proven_gain()


def _worthwhile_pairs(buyers: Sequence[Trader], sellers: Sequence[Trader]) -> list[list[tuple[int, int]]]:
    """For each buyer the numbers of the sellers that could gain with him, and how much."""
    assert all(first.arrival <= second.arrival for first, second in pairwise(sellers))
    longest = max((seller.departure - seller.arrival for seller in sellers), default=0)
    arrivals: dict[int, list[int]] = {}
    for number, seller in enumerate(sellers):
        arrivals.setdefault(seller.arrival, []).append(number)
    pairs = []
    for buyer in buyers:
        near = range(buyer.arrival - longest, buyer.departure + 1)
        met = [number for round_number in near for number in arrivals.get(round_number, ())]
        pairs.append(
            [
                (number, buyer.value - sellers[number].value)
                for number in met
                if buyer.value > sellers[number].value and could_meet(buyer, sellers[number])
            ]
        )
    return pairs


class _Search:
    """Prices (`_of_buyer`, `_of_seller`) with which no pair is worth more than its two, and equality where matched."""

    def __init__(self, pairs: list[list[tuple[int, int]]], sellers: int) -> None:
        self._pairs = pairs
        self._of_buyer = [0] * len(pairs)
        self._of_seller = [0] * sellers
        self._partner: list[int | None] = [None] * sellers  # of a seller
        self._seller_of: list[int | None] = [None] * len(pairs)

    def add(self, buyer: int) -> None:
        """Match one more buyer, if that gains anything. Somebody matched before may lose his match for it."""
        pairs, of_seller = self._pairs, self._of_seller
        self._of_buyer[buyer] = max((gain - of_seller[seller] for seller, gain in pairs[buyer]), default=0)
        if self._of_buyer[buyer] <= 0:
            self._of_buyer[buyer] = 0
            return
        reached: dict[int, int] = {buyer: 0}  # buyers, and how far they are
        came_from: dict[int, int] = {}  # a seller, from which buyer
        far: dict[int, int] = {}
        done: dict[int, int] = {}  # sellers whose distance is final
        queue: list[tuple[int, int]] = []
        # The end of the path: the buyer who stays alone in the end, or a seller who was free.
        best, end_buyer, end_seller = self._of_buyer[buyer], buyer, -1
        newest: int | None = buyer
        while newest is not None:
            base = reached[newest] + self._of_buyer[newest]
            if base < best:
                best, end_buyer, end_seller = base, newest, -1
            for seller, gain in pairs[newest]:
                distance = base + of_seller[seller] - gain
                if seller not in done and distance < far.get(seller, best):
                    far[seller] = distance
                    came_from[seller] = newest
                    heappush(queue, (distance, seller))
            newest = None
            while queue and newest is None:
                distance, seller = heappop(queue)
                if seller in done or distance > far[seller]:
                    continue
                if distance >= best:
                    queue.clear()
                    break
                done[seller] = distance
                newest = self._partner[seller]
                if newest is None:
                    best, end_buyer, end_seller = distance, came_from[seller], seller
                    queue.clear()
                    break
                reached[newest] = distance
        for number, distance in reached.items():
            self._of_buyer[number] -= best - distance
        for seller, distance in done.items():
            of_seller[seller] += best - distance
        self._turn(buyer, end_buyer, end_seller, came_from)

    def _turn(self, buyer: int, end_buyer: int, end_seller: int, came_from: dict[int, int]) -> None:
        """Give each buyer on the path the seller that follows it."""
        at, seller = end_buyer, end_seller
        while True:
            lost = self._seller_of[at]
            self._seller_of[at] = seller if seller >= 0 else None
            if seller >= 0:
                self._partner[seller] = at
            if at == buyer:
                return
            assert lost is not None, "all but the new one had a seller"
            at, seller = came_from[lost], lost

    def proven_gain(self) -> int:
        """The gain, which no matching exceeds: the prices show it."""
        gain = 0
        worth = [dict(pairs) for pairs in self._pairs]
        for seller, partner in enumerate(self._partner):
            gain += worth[partner][seller] if partner is not None else 0
        assert min([*self._of_buyer, *self._of_seller], default=0) >= 0
        for buyer, pairs in enumerate(self._pairs):
            assert all(gain <= self._of_buyer[buyer] + self._of_seller[seller] for seller, gain in pairs)
        assert gain == sum(self._of_buyer) + sum(self._of_seller), "the bound is reached"
        return gain
