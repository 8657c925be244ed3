"""A limit on the processor time of some processes, where the system lets us set one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def cpu_quota(percent: int) -> Iterator[Path]:
    """A cgroup with so much of a core, of either version. Raises OSError where that is not permitted."""
    name, period_us = f"blockcloud-test-{os.getpid()}", 100_000
    root = Path("/sys/fs/cgroup")
    old = (root / "cpu" / "cpu.shares").exists()
    folder = (root / "cpu" if old else root) / name
    folder.mkdir()
    try:
        if old:
            (folder / "cpu.cfs_period_us").write_text(str(period_us))
            (folder / "cpu.cfs_quota_us").write_text(str(period_us * percent // 100))
        else:
            (folder / "cpu.max").write_text(f"{period_us * percent // 100} {period_us}")
        yield folder
    finally:
        folder.rmdir()


def quotas_are_permitted() -> bool:
    try:
        with cpu_quota(20):
            return True
    except OSError:
        return False
