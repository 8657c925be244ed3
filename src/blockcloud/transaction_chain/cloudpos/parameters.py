"""How resources are tested, the same at every node of a chain (CloudPoS phase 2, DESIGN section 3.4).

The parameters stand in the genesis. What they mean for a node's disk and processors is in `node/resources`.
"""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.codec import Struct
from blockcloud.primitives.errors import BadConfiguration
from blockcloud.primitives.hashes import DIGEST_BYTES

WORD_BYTES: Final = DIGEST_BYTES
CHUNK_BYTES_LIMIT: Final = 16 * 1024 * 1024
PASSES_LIMIT: Final = 64
SEGMENT_BYTES_LIMIT: Final = 4 * 1024
SEGMENTS_LIMIT: Final = 64
LINKS_LIMIT: Final = 256
# SHA-256 of one core with SHA instructions, as it is usual now; bytes hashed in a step beside the window.
SHA256_BYTES_PER_MS: Final = 1_500_000
STEP_BYTES: Final = 68


class PlotParameters(Struct, frozen=True):
    """The shape of plots, the same for all nodes of a chain. Sizes in bytes; devnet values."""

    chunk_bytes: int = 64 * 1024
    segment_bytes: int = 1024
    window_bytes: int = 12 * 1024
    passes: int = 4

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        relations = (
            (0 < self.chunk_bytes <= CHUNK_BYTES_LIMIT, "a chunk has a size within the limit"),
            (self.segment_bytes <= SEGMENT_BYTES_LIMIT, "a segment has a size within the limit"),
            (
                self.segment_bytes > 0 and self.chunk_bytes % self.segment_bytes == 0,
                "a chunk consists of whole segments",
            ),
            (self.chunk_bytes % WORD_BYTES == 0, "a chunk consists of whole words"),
            (0 < self.window_bytes < self.chunk_bytes, "the window is a part of the chunk"),
            (2 <= self.passes <= PASSES_LIMIT, "fewer than two passes leave a shortcut"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"plot parameters: {reason}")

    @property
    def remake_ms(self) -> int:
        """How long it takes to make a part of a chunk again that was dropped: all passes but the last at the least."""
        steps = (self.passes - 1) * self.chunk_bytes // WORD_BYTES
        return steps * (self.window_bytes + STEP_BYTES) // SHA256_BYTES_PER_MS

    @property
    def segments(self) -> int:
        """Segments in a chunk."""
        return self.chunk_bytes // self.segment_bytes


class ChallengeParameters(Struct, frozen=True):
    """How stakes are tested, the same at every node of a chain; devnet values. Times in milliseconds.

    The challengers of an era are drawn at `draw_percent` of it, the tests begin `lead_commits` later, and the reports
    that are on the chain at `settle_percent` count. Silence costs nothing where less than `report_ms` of commit time
    was between the draw and that: commits of a busy network come faster than tests can be made.
    """

    plot: PlotParameters = PlotParameters()
    plot_deadline_ms: int = 25
    plot_segments: int = 8
    plot_rounds: int = 12
    plot_rounds_passed: int = 4
    chunks_remade: int = 1
    window_ms: int = 1_000
    tolerance_permille: int = 1_500
    links: int = 64
    links_checked: int = 8
    patience_ms: int = 5_000
    draw_percent: int = 45
    settle_percent: int = 85
    lead_commits: int = 4
    challengers: int = 16
    report_ms: int = 15_000

    def check(self) -> None:
        """Raise BadConfiguration unless the values fit together."""
        self.plot.check()
        relations = (
            (self.plot_deadline_ms > 0, "a plot answer has time"),
            (self.plot.remake_ms >= 2 * self.plot_deadline_ms, "a chunk takes two deadlines to make again"),
            (0 < self.plot_segments <= SEGMENTS_LIMIT, "the segments of a round are within the limit"),
            (0 < self.plot_rounds_passed <= self.plot_rounds, "rounds to pass are among the rounds"),
            (4 * self.plot_rounds_passed >= self.plot_rounds, "a quarter of the rounds at the least is to be passed"),
            (0 < self.chunks_remade <= self.plot_segments, "the chunks made again are among those asked for"),
            (self.window_ms > 0, "compute and transfer have a window"),
            (1_000 < self.tolerance_permille < 2_000, "the tolerance is above one window and below two"),
            (0 < self.links_checked <= self.links <= LINKS_LIMIT, "links are checked, within the limit"),
            (self.window_ms * self.tolerance_permille < self.patience_ms * 1_000, "patience outlasts the deadline"),
            (self.plot_deadline_ms < self.patience_ms, "patience outlasts the deadline"),
            (self.report_ms >= 0, "a report has time"),
        )
        for holds, reason in relations:
            if not holds:
                raise BadConfiguration(f"challenge parameters: {reason}")

    @property
    def window_deadline_ms(self) -> int:
        """For compute and transfer."""
        return self.window_ms * self.tolerance_permille // 1_000
