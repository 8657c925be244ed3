"""The main job, as a person or a script starts it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.alone]

DEMO_SECONDS = 150
VERDICTS = {
    "ledger_commits",
    "name_registered",
    "service_published",
    "resolved_with_proof",
    "provider_moved",
    "consumer_moved",
    "download_survives_moves",
    "other_replica_serves",
    "crash_ends_session",
    "ledger_survives_crash",
    "validator_catches_up",
    "equal_state_roots",
    "nothing_acknowledged_lost",
    "impostor_refused",
    "altered_service_file_refused",
    "forged_state_refused",
    "honest_answer_accepted",
}


async def test_every_verdict_of_the_demo_holds(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "blockcloud", "demo", "--json", "--seconds", "8", "--dir", str(tmp_path / "stage")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEMO_SECONDS):
            output, messages = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()  # it ends what it started
            await process.wait()
    assert process.returncode == 0, messages.decode()[-4_000:]
    assert len(output.splitlines()) == 1
    report = json.loads(output)
    assert report["verdicts"].keys() >= VERDICTS
    assert all(report["verdicts"].values()), report["verdicts"]
    assert report["ledger"]["acknowledged"] > 0
    assert report["ledger"]["missing"] == 0
    assert report["sessions"]["resumes"] >= 2
    assert b"Traceback" not in messages
