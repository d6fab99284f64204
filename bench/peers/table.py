"""Rows of the table, and the page that it is written to."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from timing import Timing

HEADER = ("id", "work", "best peer", "peer", "ttcore", "ratio", "target", "met")
UNCLEAR = "unclear †"
BEGIN, END = "<!-- measured: written by make bench-peers -->", "<!-- end of measured -->"


class Row(NamedTuple):
    target_id: str
    work: str
    peer: str
    theirs: str
    ours: str
    ratio: str
    target: str
    met: str


def best(timings: Mapping[str, Timing], names: Sequence[str]) -> str | None:
    """The fastest of these by the median, or None if there is none of them."""
    found = [name for name in names if name in timings]
    found = [name for name in found if len(timings[name].samples) > 1] or found
    return min(found, key=lambda name: timings[name].median, default=None)


def compare(
    target_id: str,
    work: str,
    timings: Mapping[str, Timing],
    peer: str | None,
    wanted: float | None,
    *,
    ours: str = "ttcore",
    label: str = "",
    target: str = "",
    scale: float = 1.0,
) -> Row:
    """How many times faster ``ours`` is than ``peer``; ``scale`` multiplies the peer's time.

    The interval beside the ratio is of the ratios of the rounds: their quartiles. ``met`` is of
    the median; where ``wanted`` lies within the interval, it says so.
    """
    target = target or ("–" if wanted is None else f"≥ {wanted:g} ×")
    mine = timings[ours]
    if peer is None:
        return Row(target_id, work, "none installed", "–", show(mine), "–", target, "–")
    other = timings[peer]
    rounds = [scale * a / b for a, b in zip(other.samples, mine.samples, strict=False)]
    ratio = scale * other.median / mine.median
    spread, met = "", "–"
    low = high = ratio
    if len(rounds) > 3:
        low, _, high = quantiles(rounds, n=4, method="inclusive")
        spread = f" ({low:.3g}–{high:.3g})"
    if wanted is not None:
        met = "yes" if ratio >= wanted else "no"
        if low < wanted <= high:
            met += ", within the noise"
        if other.mark or mine.mark:
            met = UNCLEAR
    times = Timing([scale * t for t in other.samples], other.disturbed)
    shown = f"{ratio:.3g}{spread}"
    return Row(target_id, work, label or peer, show(times), show(mine), shown, target, met)


def show(timing: Timing) -> str:
    """Median and minimum, marked where other processes ran meanwhile."""
    unit, name = (1.0, "s") if timing.median >= 1 else (1e3, "ms")
    if len(timing.samples) == 1:
        return f"{timing.median * unit:.3g} {name}"
    return f"{timing.median * unit:.3g} ({timing.best * unit:.3g}) {name}{timing.mark}"


def copies(timing: Timing, copy: Timing) -> float:
    return timing.median / median(copy.samples)


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "| " + " | ".join("---" for _ in HEADER) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """What the table says, counted."""
    judged = [row for row in rows if row.met not in ("–", UNCLEAR)]
    met = [row for row in judged if row.met.startswith("yes")]
    unclear = sum(row.met == UNCLEAR for row in rows)
    lost = []
    for row in rows:
        factor = re.match(r"[\d.e+-]+", row.ratio)
        if factor and float(factor.group()) < 1 and "limit" not in row.peer:
            lost.append(f"{row.work} ({row.peer}, {factor.group()} ×)")
    text = f"{len(met)} of the {len(judged)} targets that could be judged are met"
    text += f", {unclear} were disturbed too much. " if unclear else ". "
    if not lost:
        return text + "Nothing else is faster than ttcore in any row."
    return text + "ttcore is the slower or larger one in: " + "; ".join(lost) + "."


def write(page: Path, measured: str) -> None:
    """Replace the measured part of the page; readers never see half of it."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = page.with_name(page.name + f".{os.getpid()}.tmp")
    new.write_text(f"{before}{BEGIN}\n\n{measured}\n\n{END}{after}", encoding="utf-8")
    os.replace(new, page)
