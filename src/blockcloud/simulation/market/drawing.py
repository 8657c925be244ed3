"""The price of each round and the trades in it, as an SVG that stands alone."""

from __future__ import annotations

from typing import Final

from blockcloud.primitives.amounts import MICRO_PER_BLOC
from blockcloud.simulation.market.trial import Trial

WIDTH, HEIGHT, MARGIN = 960, 420, 56
BARS_HEIGHT: Final = 70
PAGE: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" \
font-size="13">
<rect width="100%" height="100%" fill="#fff"/>
<text x="{margin}" y="22" font-size="15">{title}</text>
<text x="{margin}" y="42" fill="#555">{legend}</text>
{marks}
<path d="{bars}" stroke="#b8c4d0" fill="none" stroke-width="{bar_width:.2f}"/>
<polyline points="{line}" fill="none" stroke="#0b63c5" stroke-width="1.6"/>
</svg>
"""


def price_path_svg(trial: Trial) -> str:
    """Price in BLOC over rounds; below it, how many units each round traded."""
    highest = max(trial.prices) * 11 // 10
    busiest = max((*trial.trades_a_round, 1))
    step = (WIDTH - 2 * MARGIN) / max(len(trial.prices) - 1, 1)
    foot = HEIGHT - MARGIN

    def across(number: int) -> float:
        return MARGIN + number * step

    def up(price: int) -> float:
        return foot - (foot - MARGIN) * price / highest

    marks = [
        _label(MARGIN - 6, up(price) + 4, f"{price / MICRO_PER_BLOC:.2f}", "end")
        + f'<path d="M{MARGIN} {up(price):.1f}H{WIDTH - MARGIN}" stroke="#e4e8ec"/>'
        for price in (0, highest // 4, highest // 2, highest * 3 // 4, highest)
    ]
    last = len(trial.prices) - 1
    marks += [
        _label(across(number), foot + 20, str(number + 1), "middle")
        for number in dict.fromkeys((0, last // 3, 2 * last // 3, last))
    ]
    bars = "".join(
        f"M{across(number):.1f} {foot}v{-BARS_HEIGHT * units / busiest:.1f}"
        for number, units in enumerate(trial.trades_a_round)
        if units
    )
    title = (
        f"{trial.scenario.name} market, seed {trial.seed}: {trial.agents} traders, {trial.trades} trades, "
        f"{trial.efficiency_percent} % of the optimum"
    )
    legend = f"by round: price in BLOC (line), units traded (bars, at most {busiest})"
    line = " ".join(f"{across(number):.1f},{up(price):.1f}" for number, price in enumerate(trial.prices))
    return PAGE.format(
        width=WIDTH, height=HEIGHT, margin=MARGIN, title=title, legend=legend, marks="\n".join(marks), bars=bars,
        bar_width=max(0.5, min(step * 0.7, 8)), line=line,
    )  # fmt: skip


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#555">{text}</text>'
