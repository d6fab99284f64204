"""P3, P4 and P5: TT-SVD, rounding, inner products and gathers of trains, in float64."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from table import UNCLEAR, Row, best, compare, copies, show
from timing import Timing, in_fresh_process, in_turns, peak_bytes

import ttcore as tt

NOISE, RANK = 1e-10, 16
ORDER, MODE, LOW, EPS = 20, 20, 20, 1e-8
COPY = "np.copyto"


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    with rivals.in_double():
        yield from _decompositions(quick, say)
        yield from _roundings(quick, say)
        yield from _products(quick, say)
        yield from _gathers(quick, say)


# P3


def noisy(order: int) -> np.ndarray:
    """4^order numbers of rank 16 and norm 1, and noise of norm 1e-10."""
    rng = np.random.default_rng(0)
    array = tt.random((4,) * order, RANK, rng=rng).to_dense()
    array /= np.linalg.norm(array)
    noise = rng.standard_normal(array.shape)
    noise *= NOISE / np.linalg.norm(noise)
    array += noise
    return array


def _decompositions(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    only: set[str] | None = None
    for order in (9, 10) if quick else (12, 13):
        work = f"TT-SVD of 4^{order}, rank 16"
        say(f"P3: {work}")
        a = noisy(order)
        target = np.empty_like(a)
        peers = rivals.decompositions(a, 1e-8, RANK)
        if only is not None:
            peers = {name: peers[name] for name in peers if name in only}
        contenders: dict[str, Callable[[], Any]] = {
            "ttcore 1e-8": lambda a=a: tt.from_dense(a, eps=1e-8).cores,
            "ttcore 1e-6": lambda a=a: tt.from_dense(a, eps=1e-6).cores,
            COPY: lambda a=a, target=target: np.copyto(target, a),
            **peers,
        }
        expected = [min(RANK, 4**k, 4 ** (order - k)) for k in range(1, order)]

        def check(answers: dict[str, Any], a: np.ndarray = a, ranks: list[int] = expected) -> None:
            for name, cores in answers.items():
                if name == COPY:
                    continue
                found = tt.TTTensor(cores)
                eps = 1e-6 if name.endswith("1e-6") else 1e-8
                error = float(np.linalg.norm((found.to_dense() - a).ravel()))
                assert error <= eps, f"{name} errs by {error}"
                if list(found.ranks[1:-1]) != ranks:
                    say(f"    {name} has ranks {found.ranks}")

        ours = ("ttcore 1e-8", "ttcore 1e-6")
        timings = in_turns(
            contenders,
            check=check,
            always={*ours, COPY},
            keep=1.5,
            rounds=2 if quick else 7 if order == 12 else 5,
        )
        say("    " + ", ".join(f"{name} {show(t)}" for name, t in timings.items()))
        peer = best(timings, list(peers))
        only = {peer} if peer else only
        for name, eps, wanted in ((ours[0], "1e-8", 8), (ours[1], "1e-6", 4)):
            yield _in_copies(f"{work}, eps {eps}", timings, peer, name, wanted)
        del contenders, peers, target
        if sys.platform == "linux":
            yield memory(work, a, peer, 1.3)


def _in_copies(
    work: str, timings: dict[str, Timing], peer: str | None, ours: str, wanted: float
) -> Row:
    copy, mine = timings[COPY], timings[ours]
    number = copies(mine, copy)
    theirs, ratio = "–", "–"
    if peer is not None:
        theirs = f"{copies(timings[peer], copy):.3g} copies"
        ratio = f"{timings[peer].median / mine.median:.3g}"
    return Row(
        "P3",
        f"{work}; np.copyto {show(copy)}",
        peer or "none installed",
        theirs,
        f"{number:.3g} copies, {show(mine)}",
        ratio,
        f"≤ {wanted:g} copies",
        UNCLEAR if mine.mark or copy.mark else "yes" if number <= wanted else "no",
    )


def memory(work: str, a: np.ndarray, peer: str | None, wanted: float | None) -> Row:
    """Peak memory of the TT-SVD at 1e-8 in processes of their own, in sizes of the array."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        np.save(path, a)
        found = {name: in_fresh_process(__file__, name, path) for name in ("ttcore", peer) if name}
    ours = found["ttcore"]
    theirs = found.get(peer) if peer else None
    return Row(
        "P3",
        f"{work}, eps 1e-8: peak memory, the array included",
        peer or "none installed",
        "–" if theirs is None else f"{theirs:.3g} × input",
        f"{ours:.3g} × input",
        "–" if theirs is None else f"{theirs / ours:.3g}",
        "–" if wanted is None else f"≤ {wanted:g} × input",
        "–" if wanted is None else "yes" if ours <= wanted else "no",
    )


def _child(name: str, path: str) -> None:
    def call(array: np.ndarray) -> Any:
        if name == "ttcore":
            return tt.from_dense(array, eps=1e-8)
        return rivals.decompositions(array, 1e-8, RANK)[name]()

    call(noisy(9))  # loads and starts what is needed: smaller ones need no compiled passes
    a = np.load(path)
    rise, _ = peak_bytes(lambda: call(a))
    print(1 + rise / a.nbytes)


# P4


def _roundings(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    order = 6 if quick else ORDER
    base = tt.random((MODE,) * order, LOW, rng=0)
    base = base * (1 / base.norm())
    weights = [1.0 + 0.1 * k for k in range(10)]
    terms = [(weight, base) for weight in weights]
    tail = tt.random((MODE,) * order, 180, rng=1)
    copied = terms[0][0] * base
    for weight, train in terms[1:]:
        copied = copied + weight * train
    inputs = {  # A: ten scaled copies; B: a tail of rank 180
        "A": (copied, sum(weights) * base),
        "B": (base + tail * (1e-10 / tail.norm()), base),
    }
    for name, (train, exact) in inputs.items():
        redundant = name == "A"
        work = f"rounding {name}, d = {order}"
        say(f"P4: {work}")
        ours: dict[str, Callable[[], Any]] = {
            "svd": lambda train=train: train.round(eps=EPS).cores,
            "gram": lambda train=train: train.round(eps=EPS, method="gram").cores,
            "randomized": lambda train=train: (
                train.round(eps=EPS, method="randomized", rng=0).cores
            ),
        }
        if redundant:
            ours["round_sum"] = lambda: tt.round_sum(terms, eps=EPS).cores
        peers = rivals.roundings(train.cores, EPS)

        missed: set[str] = set()

        def check(
            answers: dict[str, Any],
            exact: tt.TTTensor = exact,
            own: frozenset[str] = frozenset(ours),
            missed: set[str] = missed,
        ) -> None:
            for name, cores in answers.items():
                found = tt.TTTensor(cores)
                error = tt.distance(found, exact) / exact.norm()
                if max(found.ranks) != LOW or error > 2 * EPS:
                    say(f"    {name} has rank {max(found.ranks)} and error {error:.1e}")
                    missed.add(name)
                    assert name not in own, name

        timings = in_turns(
            {**ours, **peers}, check=check, always=ours, keep=2.0, rounds=2 if quick else 5
        )
        say("    " + ", ".join(f"{name} {show(t)}" for name, t in timings.items()))
        peer = best(timings, [key for key in peers if key not in missed])
        wanted = {
            "svd": 4.0 if redundant else 2.0,
            "gram": 4.0,
            "randomized": 10.0,
            "round_sum": 20.0,
        }
        for method in ours:
            label = f"{work}, {method}"
            yield compare("P4", label, timings, peer, wanted[method], ours=method)


# P5


def _products(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    rank = 50 if quick else 100
    x, y = (tt.random((MODE,) * ORDER, rank, rng=seed) for seed in (0, 1))
    x, y = x * (1 / x.norm()), y * (1 / y.norm())
    work = f"vdot of two rank-{rank} trains, d = 20, n = 20"
    say(f"P5: {work}")
    peers = rivals.inner_products(x.cores, y.cores)

    def check(answers: dict[str, Any]) -> None:
        values = list(answers.values())
        assert np.ptp(values) <= 1e-12, answers  # of trains of norm 1

    timings = in_turns({"ttcore": lambda: tt.vdot(x, y), **peers}, check=check, rounds=15)
    say("    " + ", ".join(f"{name} {show(t)}" for name, t in timings.items()))
    two = "two GEMMs a core by NumPy"
    yield compare("P5", work, timings, best(timings, [key for key in peers if key != two]), None)
    target = "≥ 1.13 ×, as PITTS"  # 21 ms beside 23.7 ms of the same chain
    yield compare("P5", work, timings, two, 1.13, target=target)


def _gathers(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    train = tt.random((MODE,) * ORDER, LOW, rng=0)
    if not hasattr(train, "gather"):
        say("P5: this ttcore has no gather")
        return
    count = 1_000 if quick else 1_000_000
    few = count // 20  # the peers take time in proportion, and are given less
    work = f"{count:,} gathers, d = 20, n = 20, rank 20"
    say(f"P5: {work}")
    index = np.random.default_rng(0).integers(MODE, size=(count, ORDER))
    peers = rivals.gathers(train.cores, index[:few])
    expected = train.gather(index[:few])

    def check(answers: dict[str, Any]) -> None:
        scale = float(np.abs(expected).max())
        for name, found in answers.items():
            np.testing.assert_allclose(found[:few], expected, atol=1e-10 * scale, err_msg=name)

    contenders = {"ttcore": lambda: train.gather(index), **peers}
    timings = in_turns(contenders, check=check, keep=1.5, rounds=5)
    say("    " + ", ".join(f"{name} {show(t)}" for name, t in timings.items()))
    peer = best(timings, list(peers))
    label = f"{peer}, 20 times its time for {few:,}"
    yield compare("P5", work, timings, peer, 10.0, scale=20.0, label=label)


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
