"""curl, psql, MQTT clients and a browser reach services by name, and their connections live through moves.

Nothing in these programs knows of BlockCloud: they use a proxy, DNS, or a local port. Real servers stand behind the
names. Each program's test skips where the program is not installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from asyncio.subprocess import PIPE
from functools import partial
from pathlib import Path

import pytest

from tests.end_to_end.ledger_world import STEP_SECONDS, until
from tests.end_to_end.programs_world import (
    BROKER,
    BROKER_PROGRAMS,
    DATABASE,
    DATABASE_PROGRAMS,
    FILES,
    LARGE_BYTES,
    PAGE,
    ProgramsWorld,
    ending,
    need,
    next_line,
    output_of,
    program,
    programs_world,
    say,
    talking,
)

pytestmark = pytest.mark.long

RATE = "24M"  # of a download of 96 MiB: seconds, in which two moves of milliseconds fall
MESSAGES = 90


async def test_unmodified_programs(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """One after the other: they share a network and servers, and moves of one would be seen in another's counters."""
    need("curl")
    async with programs_world(tmp_path) as world:
        for step in (
            curl_by_every_way,
            curl_is_told_why_not,
            curl_by_dns_alone,
            a_download_survives_moves_of_both_sides,
            a_transaction_survives_moves_of_both_sides,
            a_subscription_survives_moves_of_both_sides,
            a_browser_shows_a_page_by_name,
        ):
            with subtests.test(step.__name__):
                await step(world)


async def curl_by_every_way(world: ProgramsWorld) -> None:
    url = f"http://{world.host(FILES)}/"
    socks, http = world.proxy["socks"], f"http://{world.proxy['http']}"
    for way in (("--socks5-hostname", socks), ("-x", http), ("-p", "-x", http)):
        assert await output_of("curl", "-sS", "--fail", *way, url) == PAGE


async def curl_is_told_why_not(world: ProgramsWorld) -> None:
    socks, http = world.proxy["socks"], f"http://{world.proxy['http']}"
    for host, code in (("nobody.internal", "unknown_name"), ("www.example.com", "not_a_service_name")):
        problem = json.loads(await output_of("curl", "-sS", "-x", http, f"http://{host}/"))
        assert (problem["status"], problem["code"]) == (404, code)
        await output_of("curl", "-sS", "--socks5-hostname", socks, f"http://{host}/", code=97)
    # It resolves by itself: an address says nothing about the service.
    await output_of("curl", "-sS", "--socks5", socks, "http://127.0.0.1/", code=97)


async def curl_by_dns_alone(world: ProgramsWorld) -> None:
    host, _, port = world.proxy["dns"].rpartition(":")
    configuration = world.service.folder / "resolv.conf"
    configuration.write_text(f"nameserver {host}\n")
    through = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(configuration)]
    allowed = subprocess.run([*through, "true"], capture_output=True, text=True)
    if port != "53" or allowed.returncode:
        pytest.skip(f"needs root and a mount namespace of its own: {allowed.stderr.strip()}")
    url = f"http://{world.host(FILES)}/"
    assert await output_of(*through, "curl", "-sS", "--fail", url) == PAGE
    await output_of(*through, "curl", "-sS", f"http://{world.host('nobody')}/", code=6)
    if DATABASE in world.published:
        # The port is the one of its service file.
        ask = ("-X", "-A", "-t", "-h", world.host(DATABASE), "-U", "postgres", "-c", "SELECT 6 * 7", "postgres")
        assert await output_of(*through, program("psql"), *ask) == b"42\n"
    evil = await output_of(*through, "curl", "-sS", "-H", "Host: evil.example", url)
    assert json.loads(evil)["code"] == "misdirected_request"


async def a_download_survives_moves_of_both_sides(world: ProgramsWorld) -> None:
    target = world.service.folder / "download.bin"
    command = ("curl", "-sS", "--fail", "--limit-rate", RATE, "--socks5-hostname", world.proxy["socks"])
    url = f"http://{world.host(FILES)}/large.bin"
    process = await asyncio.create_subprocess_exec(*command, "-o", str(target), url, stderr=PIPE)
    async with ending(process):
        await grown(target, 1)
        await world.move_provider(FILES, "127.0.0.7")
        await grown(target, 2)
        await world.move_proxy("127.0.0.8")
        # The sessions of earlier requests may linger.
        session = max(await world.sessions(FILES), key=lambda each: int(each["bytes_read"]))
        assert session["resumes"] >= 2
        assert process.returncode is None, "the download ended before the moves did"
        async with asyncio.timeout(STEP_SECONDS):
            assert await process.wait() == 0
    assert target.stat().st_size == LARGE_BYTES
    wanted = hashlib.sha256((world.content / "large.bin").read_bytes()).digest()
    assert hashlib.sha256(target.read_bytes()).digest() == wanted


async def grown(target: Path, more_mib: int) -> None:
    """Wait until the file has got that much larger."""
    start = target.stat().st_size if target.exists() else 0

    async def larger() -> bool:
        return target.exists() and target.stat().st_size >= start + more_mib * 1024 * 1024

    await until(larger, "the download to go on")


async def a_transaction_survives_moves_of_both_sides(world: ProgramsWorld) -> None:
    need(*DATABASE_PROGRAMS)
    port = await world.forward(DATABASE)
    options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", port, "-U", "postgres")
    async with talking(program("psql"), *options, "postgres") as psql:
        say(psql, "BEGIN; CREATE TEMP TABLE kept (number int); SELECT pg_backend_pid();\n")
        backend = await next_line(psql)
        assert backend.isdigit(), backend
        for number, move in enumerate((world.move_provider, world.move_forward, world.move_provider)):
            say(psql, f"INSERT INTO kept VALUES ({number}) RETURNING number;\n")
            assert await next_line(psql) == str(number)
            await move(DATABASE, f"127.0.0.{20 + number}")
        say(psql, "SELECT pg_backend_pid(), sum(number), count(*) FROM kept;\nCOMMIT;\n")
        assert await next_line(psql) == f"{backend}|3|3"
        (session,) = await world.sessions(DATABASE, world.forwarded[DATABASE]["control"])
        assert session["resumes"] >= 3
        say(psql, "SELECT count(*) FROM kept;\n\\q\n")
        assert await next_line(psql) == "3"
        async with asyncio.timeout(STEP_SECONDS):
            assert await psql.wait() == 0


async def a_subscription_survives_moves_of_both_sides(world: ProgramsWorld) -> None:
    need(*BROKER_PROGRAMS)
    place = ("--proxy", f"socks5h://{world.proxy['socks']}", "-h", world.host(BROKER), "-p", "1883", "-q", "1")
    reader = ("-t", "kitchen/#", "-F", "%t %p", "-C", str(MESSAGES + 1))
    async with (
        talking(program("mosquitto_sub"), *place, *reader) as subscriber,
        talking(program("mosquitto_pub"), *place, "-t", "kitchen/temperature", "-l") as publisher,
    ):
        # Retained, so that it comes as soon as the subscription stands.
        await output_of(program("mosquitto_pub"), *place, "-t", "kitchen/ready", "-m", "0", "-r")
        assert await next_line(subscriber) == "kitchen/ready 0"

        async def both() -> bool:
            return len(await world.sessions(BROKER)) == 2

        await until(both, "the sessions of both programs alone")
        before = {session["id"] for session in await world.sessions(BROKER)}
        moves = (
            partial(world.move_provider, BROKER, "127.0.0.40"),
            partial(world.move_proxy, "127.0.0.41"),
            partial(world.move_provider, BROKER, "127.0.0.42"),
        )
        for start, move in enumerate(moves):
            third = range(start * MESSAGES // 3, (start + 1) * MESSAGES // 3)
            say(publisher, "".join(f"{number}\n" for number in third))
            await move()  # while they are on their way
            for number in third:
                assert await next_line(subscriber) == f"kitchen/temperature {number}"
        after = await world.sessions(BROKER)
        assert {session["id"] for session in after} == before, "a program had to connect again"
        assert all(session["resumes"] >= 3 for session in after)
        async with asyncio.timeout(STEP_SECONDS):
            assert await subscriber.wait() == 0
            assert publisher.stdin is not None
            publisher.stdin.close()
            assert await publisher.wait() == 0


async def a_browser_shows_a_page_by_name(world: ProgramsWorld) -> None:
    need("chromium")
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    quiet += ("--disable-background-networking", "--disable-component-update", "--disable-extensions")
    profile = world.service.folder / "profile"
    dom = await output_of(
        program("chromium"),
        *quiet,
        f"--user-data-dir={profile}",
        f"--proxy-server=socks5://{world.proxy['socks']}",
        "--dump-dom",
        f"http://{world.host(FILES)}/",
    )
    assert f"42 is said by {world.host(FILES)}" in dom.decode()
