"""All orders in which a TT-matrix can be multiplied with dense vectors, the cheapest first.

A sweep from the right, from the left, or from both ends to a middle bond, neighbours merged into
supercores in any way that fits the scratch: by dynamic programming over intervals of cores.
"""

import math
from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import NamedTuple

from ttcore.typing import Stage

LONGEST = 12  # cores that one supercore may merge


class Modes(NamedTuple):
    """What an order depends on: d row modes, d column modes, d + 1 ranks."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    ranks: tuple[int, ...]


Costed = tuple[float, tuple[Stage, ...]]


def cheapest(
    modes: Modes, cost: Callable[[Stage], float], *, entries: int, keep: int = 1
) -> list[Costed]:
    """The ``keep`` cheapest orders, with their costs: the sums of their stages' costs.

    Parameters
    ----------
    modes : Modes
    cost : callable
        Of a stage, the merging of its cores included.
    entries : int
        A supercore of several cores may have at most so many.
    keep : int
    """
    d = len(modes.rows)
    spans = list(_spans(modes, entries))
    # right[i]: the cheapest ways to contract cores i.. from the right
    right: list[list[Costed]] = [*([] for _ in range(d)), [(0.0, ())]]
    for first in reversed(range(d)):
        ways = []
        for s in spans:
            if s[0] == first and right[s[1]]:
                stage = right_stage(modes, s)
                price = cost(stage)
                ways += [(done + price, (*stages, stage)) for done, stages in right[s[1]]]
        right[first] = nsmallest(keep, ways, key=lambda way: way[0])
    best = right[0]
    for middle in range(1, d + 1):
        small = modes.ranks[middle - 1] <= modes.ranks[middle]
        if small and modes.rows[middle - 1] == modes.cols[middle - 1] == 1:
            continue  # a core that is a matrix between two bonds: no better place to meet
        limit = best[-1][0] - right[middle][0][0] if len(best) == keep else math.inf
        left: list[list[Costed]] = [[(0.0, ())], *([] for _ in range(middle))]
        for s in spans:
            if s[1] > middle or not left[s[0]] or left[s[0]][0][0] >= limit:
                continue
            stage = left_stage(modes, s, middle)
            price = cost(stage)
            ways = [(done + price, (*stages, stage)) for done, stages in left[s[0]]]
            left[s[1]] = nsmallest(keep, left[s[1]] + ways, key=lambda way: way[0])
        ways = [
            (a + b, (*before, *after)) for a, before in right[middle] for b, after in left[middle]
        ]
        best = nsmallest(keep, best + ways, key=lambda way: way[0])
    return best


def _spans(modes: Modes, entries: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of all supercores that fit, by their first core."""
    d = len(modes.rows)
    for first in range(d):
        m = n = 1
        for last in range(first + 1, min(first + LONGEST, d) + 1):
            m, n = m * modes.rows[last - 1], n * modes.cols[last - 1]
            if last > first + 1 and modes.ranks[first] * m * n * modes.ranks[last] > entries:
                break
            yield first, last


def from_the_right(modes: Modes) -> tuple[Stage, ...]:
    """One core after the other: for matrices whose vectors fit no memory, so that no order pays."""
    return tuple(right_stage(modes, (k, k + 1)) for k in reversed(range(len(modes.rows))))


def right_stage(modes: Modes, span: tuple[int, int]) -> Stage:
    """Cores first..last-1 in a sweep from the right."""
    first, last = span
    rows, cols, ranks = modes
    return Stage(
        first, last, 0,
        outer=math.prod(cols[:first]),
        rows=ranks[first] * math.prod(rows[first:last]),
        k=math.prod(cols[first:last]) * ranks[last],
        inner=math.prod(rows[last:]),
    )  # fmt: skip


def left_stage(modes: Modes, span: tuple[int, int], middle: int) -> Stage:
    """Cores first..last-1 in a sweep from the left to the bond ``middle``."""
    first, last = span
    rows, cols, ranks = modes
    outer, behind = math.prod(rows[:first]), math.prod(rows[middle:])
    m, n = math.prod(rows[first:last]), math.prod(cols[first:last])
    if last == middle:
        return Stage(first, last, 2, outer, m, ranks[first] * n * ranks[middle], behind)
    ahead = math.prod(cols[last:middle]) * ranks[middle]
    return Stage(first, last, 1, outer, m * ranks[last], ranks[first] * n, ahead * behind)
