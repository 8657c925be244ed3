"""Plots: one content for each node, chunk and seed; proofs that hold; damage that is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcloud.node.resources.plot import (
    PlotDamaged,
    PlotFile,
    make_chunk,
    make_plot,
    segments_of,
    verify_segment,
)
from blockcloud.primitives import codec
from blockcloud.primitives.errors import BadConfiguration, StorageFault
from blockcloud.primitives.hashes import tagged_hash
from blockcloud.primitives.merkle import merkle_root
from blockcloud.transaction_chain.cloudpos.parameters import PlotParameters
from tests.node.resource_world import SEED, SMALL_PLOT, key_of

KEY = key_of(1).public


def slow_chunk(node_key: bytes, seed: bytes, number: int, parameters: PlotParameters) -> bytes:
    """The definition once more, in the plainest way."""
    word = tagged_hash("plot-chunk/v1", codec.encode((node_key, seed, number, parameters)))
    filled = hashlib.shake_128(word).digest(parameters.chunk_bytes)
    words = [filled[at : at + 32] for at in range(0, len(filled), 32)]
    window = parameters.window_bytes // 32
    for turn in range(parameters.passes):
        for at in range(len(words)):
            begin = int.from_bytes(word[:8], "big") % (len(words) - window + 1)
            seen = b"".join(words[begin : begin + window])
            word = hashlib.sha256(word + turn.to_bytes(4, "big") + words[at] + seen).digest()
            words[at] = word
    return b"".join(words)


@given(st.integers(0, 2**24), st.integers(2, 3))
def test_a_chunk_is_what_the_definition_says(number: int, passes: int) -> None:
    parameters = PlotParameters(512, 128, 96, passes)
    assert make_chunk(KEY, SEED, number, parameters) == slow_chunk(KEY, SEED, number, parameters)


def test_a_chunk_depends_on_everything() -> None:
    made = make_chunk(KEY, SEED, 1, SMALL_PLOT)
    others = [
        make_chunk(key_of(2).public, SEED, 1, SMALL_PLOT),
        make_chunk(KEY, bytes(32), 1, SMALL_PLOT),
        make_chunk(KEY, SEED, 2, SMALL_PLOT),
        make_chunk(KEY, SEED, 1, msgspec.structs.replace(SMALL_PLOT, passes=3)),
    ]
    assert len(made) == SMALL_PLOT.chunk_bytes
    words = {made[at : at + 32] for at in range(0, len(made), 32)}
    assert len(words) == SMALL_PLOT.chunk_bytes // 32
    for other in others:
        assert not words & {other[at : at + 32] for at in range(0, len(other), 32)}


@pytest.mark.parametrize("chunks", [1, 2, 5, 8])
def test_every_segment_has_a_proof(tmp_path: Path, chunks: int) -> None:
    root = make_plot(tmp_path / "plot", KEY, SEED, chunks, SMALL_PLOT)
    plot = PlotFile(tmp_path / "plot")
    assert (plot.root, plot.chunks, plot.node_key, plot.parameters) == (root, chunks, KEY, SMALL_PLOT)
    for number in range(chunks):
        leaves = segments_of(make_chunk(KEY, SEED, number, SMALL_PLOT), SMALL_PLOT)
        for segment, leaf in enumerate(leaves):
            proof = plot.read(number, segment)
            assert proof.data == leaf
            assert proof.chunk_root == merkle_root(leaves)
            assert verify_segment(root, chunks, number, segment, proof, SMALL_PLOT)
    plot.close()


def test_a_proof_is_for_one_place_of_one_plot(tmp_path: Path) -> None:
    root = make_plot(tmp_path / "plot", KEY, SEED, 4, SMALL_PLOT)
    plot = PlotFile(tmp_path / "plot")
    proof = plot.read(2, 3)
    plot.close()
    assert verify_segment(root, 4, 2, 3, proof, SMALL_PLOT)
    assert not verify_segment(root, 4, 2, 2, proof, SMALL_PLOT)
    assert not verify_segment(root, 4, 3, 3, proof, SMALL_PLOT)
    assert not verify_segment(bytes(32), 4, 2, 3, proof, SMALL_PLOT)
    changed = msgspec.structs.replace(proof, data=bytes(len(proof.data)))
    assert not verify_segment(root, 4, 2, 3, changed, SMALL_PLOT)
    longer = msgspec.structs.replace(proof, data=proof.data + b"\x00")
    assert not verify_segment(root, 4, 2, 3, longer, SMALL_PLOT)


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "plot"
    make_plot(path, KEY, SEED, 4, SMALL_PLOT)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    plot = PlotFile(path)
    assert plot.read(2, 0).chunk_root
    with pytest.raises(PlotDamaged) as caught:
        plot.read(3, 0)
    plot.close()
    assert caught.value.values["chunk"] == 3


def test_a_plot_that_is_not_whole_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "plot"
    make_plot(path, KEY, SEED, 4, SMALL_PLOT)
    whole = path.read_bytes()
    for content in (b"", b"\xff" * 5_000, whole[:-1], whole + b"\x00", whole[:100]):
        path.write_bytes(content)
        with pytest.raises(StorageFault):
            PlotFile(path)
    with pytest.raises(StorageFault):
        PlotFile(tmp_path / "nowhere")


def test_a_plot_appears_when_it_is_whole(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(made: int) -> None:
        assert not (tmp_path / "plot").exists()
        if made == 2:
            raise Stopped

    with pytest.raises(Stopped):
        make_plot(tmp_path / "plot", KEY, SEED, 4, SMALL_PLOT, stop)
    assert not (tmp_path / "plot").exists()
    assert make_plot(tmp_path / "plot", KEY, SEED, 4, SMALL_PLOT)
    assert [file.name for file in tmp_path.iterdir()] == ["plot"]


def test_a_plot_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageFault):
        make_plot(tmp_path / "no" / "such" / "plot", KEY, SEED, 1, SMALL_PLOT)
    with pytest.raises(StorageFault):
        make_plot(Path("/dev/full/plot"), KEY, SEED, 1, SMALL_PLOT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk_bytes": 0},
        {"chunk_bytes": 2**30},
        {"segment_bytes": 0},
        {"segment_bytes": 300},
        {"window_bytes": 0},
        {"window_bytes": 2_048},
        {"passes": 1},
    ],
)
def test_parameters_fit_together(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(BadConfiguration):
        make_plot(tmp_path / "plot", KEY, SEED, 1, msgspec.structs.replace(SMALL_PLOT, **wrong))
    with pytest.raises(BadConfiguration):
        make_plot(tmp_path / "plot", KEY, SEED, 0, SMALL_PLOT)
