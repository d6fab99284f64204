"""How good the planner's choices are: beside its own candidates, and beside every possible order.

    python bench/planner.py [--shapes 200] [--exhaustive 30] [--kind rows|gradients] [--worst 5]

Each order is called through the compiled kernels, merging of cores included. An order's time is the
smallest of several rounds, in which all orders take turns: what others on the machine do only adds.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import ttcore as tt
from ttcore.kernels import dispatch
from ttcore.planner import WORTH, Kind, batch_class, candidates, flops_of, modes_of
from ttcore.tuning import measured
from ttcore.typing import Stage

KEEP = 8  # candidates beside the choice


class Case(NamedTuple):
    """A layer and a batch."""

    W: tt.TTMatrix
    batch: int


def random_case(rng: np.random.Generator, most: int) -> Case:
    """A layer of 2 to ``most`` cores, with 64 to 60,000 inputs and outputs, and a batch."""
    while True:
        d = int(rng.integers(2, most + 1))
        rows, cols = (tuple(int(n) for n in rng.integers(2, 13, d)) for _ in range(2))
        M, N = math.prod(rows), math.prod(cols)
        if not (64 <= M <= 60_000 and 64 <= N <= 60_000):
            continue
        ranks = [int(r) for r in np.exp(rng.uniform(0, math.log(24), d - 1)).round()]
        dtype = np.float32 if rng.random() < 0.7 else np.float64
        W = tt.random_matrix(rows, cols, ranks, rng=rng, dtype=dtype)
        batch = int(2 ** rng.integers(0, 9))
        work = batch * flops_of(W.plan(batch=batch).stages)
        if WORTH <= work <= 3e9:
            return Case(W, batch)


def call(case: Case, stages: tuple[Stage, ...], kind: Kind) -> Callable[[], Any]:
    """The compiled call in this order."""
    chain, cores = dispatch.chain(True), case.W.cores
    rng = np.random.default_rng(0)
    x = rng.standard_normal((case.batch, case.W.shape[1])).astype(case.W.dtype)
    if kind == "rows":
        return lambda: chain.matvec(cores, x, stages)
    gy = rng.standard_normal((case.batch, case.W.shape[0])).astype(case.W.dtype)
    return lambda: chain.matvec_backward(cores, x, gy, stages)


def regret(case: Case, kind: Kind, keep: int) -> tuple[float, str]:
    """Time of the planner's choice over that of the best of ``keep`` orders, and a description."""
    W, batch = case
    modes = modes_of(tuple(g.shape for g in W.cores))
    name = W.dtype.name
    found = candidates(modes, batch_class(batch), name, kind, compiled=True, keep=keep)
    seconds = measured([call(case, stages, kind) for _, stages in found])
    best = int(np.argmin(seconds))
    text = f"{modes.rows} x {modes.cols}, ranks {modes.ranks[1:-1]}, batch {batch}, {name}"
    for at in {0: None, best: None}:
        stages = " ".join(f"{s.outer}*({s.rows},{s.k},{s.inner})" for s in found[at][1])
        text += f"\n    {seconds[at] * 1e3:.3f} ms, predicted {found[at][0] * 1e3:.3f}: {stages}"
    return seconds[0] / seconds[best], text


def study(title: str, cases: list[Case], kind: Kind, keep: int, limit: float, worst: int) -> None:
    """Print how many choices are within ``limit`` of the best, and the worst of them."""
    found = [regret(case, kind, keep) for case in tqdm(cases, desc=title, leave=False)]
    ratios = np.array([ratio for ratio, _ in found])
    share = np.mean(ratios <= limit)
    print(
        f"{title}: {share:.1%} of {len(cases)} within {limit - 1:.0%} of the best; "
        f"median {np.median(ratios):.3f}, 95 % {np.quantile(ratios, 0.95):.3f}, "
        f"largest {ratios.max():.3f}"
    )
    for ratio, text in sorted(found, reverse=True)[:worst]:
        print(f"  {ratio:.2f}  {text}")


def main() -> None:
    """Read the options and run both studies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--exhaustive", type=int, default=30)
    parser.add_argument("--kind", choices=["rows", "gradients"], default="rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worst", type=int, default=3, help="how many of the worst to print")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    cases = [random_case(rng, 6) for _ in range(options.shapes)]
    study("candidates", cases, options.kind, 1 + KEEP, 1.15, options.worst)
    cases = [random_case(rng, 4) for _ in range(options.exhaustive)]
    study("all orders", cases, options.kind, 10_000, 1.3, options.worst)


if __name__ == "__main__":
    main()
