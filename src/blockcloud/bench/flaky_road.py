"""A stretch of road in user space that loses, delays, doubles and reorders IP packets: what netem does, on any kernel.

It is a TUN device in a router's namespace. The router sends packets of troubled pairs there; here each of them is
dropped, or written back after a while, and the router hands it on. TCP sees what it would see on a bad line. All chance
is drawn from one seed. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Final

TUN_DEVICE: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
IPV4: Final = 4
PACKET_BYTES: Final = 65_536
PACKETS_AT_ONCE: Final = 64  # read in one turn of the loop
PACKETS_UNDER_WAY: Final = 20_000  # what comes beyond it is lost


@dataclass(frozen=True)
class Weather:
    """What happens to the packets of one direction; shares are between 0 and 1. Jitter lets packets overtake."""

    lost: float = 0.0
    doubled: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0


class FlakyRoad:
    """The TUN device `name`, made in this process's namespace; the caller moves it to where it belongs."""

    def __init__(self, name: str, seed: int) -> None:
        self.weather: dict[tuple[bytes, bytes], Weather] = {}  # (source, destination), 4 bytes each
        self.seen: Counter[str] = Counter()
        self._choice = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._device = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.ioctl(self._device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        except OSError:
            os.close(self._device)
            raise
        self._loop.add_reader(self._device, self._take)

    def close(self) -> None:
        """Take the device away. What is under way is lost."""
        self._loop.remove_reader(self._device)
        os.close(self._device)
        self._device = -1

    def _take(self) -> None:
        for _ in range(PACKETS_AT_ONCE):
            try:
                packet = os.read(self._device, PACKET_BYTES)
            except BlockingIOError:
                return
            self._forward(packet)

    def _forward(self, packet: bytes) -> None:
        if packet[0] >> 4 != IPV4:
            return  # the kernel's own talk on a new interface
        weather = self.weather.get((packet[12:16], packet[16:20]), Weather())
        if self._choice.random() < weather.lost or self._under_way >= PACKETS_UNDER_WAY:
            self.seen["lost"] += 1
            return
        for _ in range(2 if self._choice.random() < weather.doubled else 1):
            self._under_way += 1
            self._loop.call_later(weather.delay_s + self._choice.random() * weather.jitter_s, self._give, packet)

    def _give(self, packet: bytes) -> None:
        self._under_way -= 1
        if self._device < 0:
            return
        try:
            os.write(self._device, packet)
            self.seen["given"] += 1
        except OSError:  # the device is full, or going down: one more lost packet
            self.seen["lost"] += 1
