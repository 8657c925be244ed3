"""The benchmark of the state runs and reports what it says it does."""

from __future__ import annotations

from pathlib import Path

from blockcloud.bench import state
from blockcloud.primitives.storage import MemoryStore


def test_the_benchmark_reports_every_figure_it_has_a_bar_for(tmp_path: Path) -> None:
    opened: list[Path] = []

    def factory(path: Path) -> MemoryStore:
        opened.append(path)
        return MemoryStore()

    report = state.run(keys=400, batch=50, batches=2, runs=1, names=300, store_factory=factory, directory=tmp_path)
    assert set(report["bars"]) <= set(report["figures"])
    assert all(figure >= 0 for figure in report["figures"].values())
    assert report["ratio"] > 0
    figures = report["figures"]
    assert figures["names"] == 300
    assert 64 < figures["name_proof_bytes_mean"] <= figures["name_proof_bytes_max"] <= 2_048
    assert figures["name_record_bytes_max"] > 100
    assert [path.parent for path in opened] == [tmp_path, tmp_path]
    assert not any(path.exists() for path in opened)


def test_names_are_left_out_if_there_are_to_be_none(tmp_path: Path) -> None:
    report = state.run(
        keys=40, batch=5, batches=1, runs=1, store_factory=lambda path: MemoryStore(), directory=tmp_path
    )
    assert not any(figure.startswith("name") for figure in report["figures"])
