"""Approximations beside each other: time, and the error and largest rank of everybody's answer."""

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from table import Row, best, compare, show
from timing import in_turns

import ttcore as tt


class Answer(NamedTuple):
    error: float
    rank: int

    def __str__(self) -> str:
        return f"error {self.error:.2g}, rank {self.rank}"


def contest(
    target_id: str,
    work: str,
    ours: dict[str, Callable[[], Any]],
    peers: dict[str, Callable[[], Any]],
    *,
    error: Callable[[tt.TTTensor], float],
    eps: float,
    say: Callable[[str], None],
    heuristic: Iterable[str] = (),
    keep: float = 2.0,
    rounds: int = 5,
) -> tuple[list[Row], str | None]:
    """Rows, one for each of ``ours``, beside the fastest peer that keeps eps, and its name.

    All are functions that return NumPy cores; ``error`` gives the relative error of a train. Those
    of ours that are not ``heuristic`` must keep what is promised for eps, and end the run if they
    do not; where others do not, that is printed. Without a peer that does, the fastest one stands.
    """
    found: dict[str, Answer] = {}
    missed: set[str] = set()

    def check(answers: dict[str, Any]) -> None:
        for name, cores in answers.items():
            train = tt.TTTensor(cores)
            found[name] = Answer(error(train), max(train.ranks))
            allowed = eps + 10 * sqrt(train.ndim) * np.finfo(train.dtype).eps  # see docs/accuracy
            if not found[name].error <= allowed:
                missed.add(name)
                say(f"    {name} does not keep eps {eps:g}: {found[name]}")
                assert name in peers or name in heuristic, f"{name}: {found[name]}"

    say(f"{target_id}: {work}")
    timings = in_turns({**ours, **peers}, check=check, always=ours, keep=keep, rounds=rounds)
    say("    " + ", ".join(f"{name} {show(t)} ({found[name]})" for name, t in timings.items()))
    peer = best(timings, [name for name in peers if name not in missed] or list(peers))
    rows = []
    for name in ours:
        label = f"{work}, {name}" if len(ours) > 1 else work
        row = compare(target_id, label, timings, peer, None, ours=name)
        theirs = f"{row.theirs}; {found[peer]}" if peer else row.theirs
        rows.append(row._replace(theirs=theirs, ours=f"{row.ours}; {found[name]}"))
    return rows, peer
