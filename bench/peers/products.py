"""P4 once more: products rounded, and rounding at small ranks, in float64."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import rivals
from contest import contest
from table import Row
from timing import in_fresh_process, peak_bytes

import ttcore as tt

EPS = 1e-6
METHODS = ("exact", "zipup", "randomized", "als")
HEURISTIC = ("zipup", "als")  # without a guarantee
Calls = dict[str, Callable[[], Any]]


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    with rivals.in_double():
        yield from _squares(quick, say)
        yield from _matrix_products(quick, say)
        yield from _small(quick, say)


# operands whose products are known


def cosine(order: int, mode: int, step: float) -> tt.TTTensor:
    """cos(step (i_1 + … + i_d)), of rank 2: rotations in a row."""
    angles = step * np.arange(mode)
    turns = np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]])
    turn = turns.transpose(0, 2, 1)  # (2, n, 2)
    return tt.TTTensor([turn[:1], *[turn] * (order - 2), turn[..., :1]])


def waves(order: int, mode: int, weights: np.ndarray, step: float) -> tt.TTTensor:
    """The sum of weights[k] cos(k step (i_1 + … + i_d)), of rank 2 len(weights) - 1."""
    total = weights[0] * tt.ones((mode,) * order)
    for k, weight in enumerate(weights[1:], start=1):
        total = total + weight * cosine(order, mode, k * step)
    return total


def decaying(count: int) -> np.ndarray:
    """Weights of an analytic function: an eps decides where the waves may be cut off."""
    return 5.0 ** -np.arange(count)


def laplacian(order: int, mode: int) -> tt.TTMatrix:
    """Identity plus discrete Laplacian, periodic, of rank 2."""
    one = np.eye(mode)
    second = 2 * one - np.roll(one, 1, axis=0) - np.roll(one, -1, axis=0)
    zero = np.zeros_like(one)
    core = np.array([[one, second], [zero, one]]).transpose(0, 2, 3, 1)
    last = np.array([[one + second], [one]]).transpose(0, 2, 3, 1)  # the one: plus identity
    return tt.TTMatrix([core[:1], *[core] * (order - 2), last])


def relative(exact: tt.TTTensor) -> Callable[[tt.TTTensor], float]:
    norm = exact.norm()
    return lambda train: tt.distance(train, exact) / norm


# the contests


def _square_case(order: int) -> tuple[Calls, Calls, tt.TTTensor]:
    """The square of a train of rank 15: of rank 29 in place of 225."""
    step, weights = 2 * np.pi / 30, decaying(8)
    a = waves(order, 20, weights, step)
    doubled = np.zeros(15)  # 2 cos(k t) cos(l t) = cos((k + l) t) + cos((k - l) t)
    for k, first in enumerate(weights):
        for l, second in enumerate(weights):
            doubled[k + l] += first * second / 2
            doubled[abs(k - l)] += first * second / 2
    exact = waves(order, 20, doubled, step)

    def call(method: str) -> Any:
        return tt.multiply(a, a, eps=EPS, method=method, rng=0).cores

    ours = {method: partial(call, method) for method in METHODS}
    return ours, rivals.squares(a.cores, EPS), exact


def _squares(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    order = 6 if quick else 20
    ours, peers, exact = _square_case(order)
    work = f"a * a rounded at 1e-6, d = {order}, n = 20, rank 15"
    rows, peer = contest(
        "P4",
        work,
        ours,
        peers,
        error=relative(exact),
        eps=EPS,
        say=say,
        heuristic=HEURISTIC,
        rounds=2 if quick else 5,
    )
    yield from rows
    if sys.platform == "linux":
        names = [name for name in ("exact", peer) if name]
        found = [in_fresh_process(__file__, name, order) for name in names]
        yield Row(
            "P4",
            f"{work}, exact: peak memory beyond the operands",
            peer or "none installed",
            f"{found[1]:.3g} MiB" if peer else "–",
            f"{found[0]:.3g} MiB",
            f"{found[1] / found[0]:.3g}" if peer else "–",
            "–",
            "–",
        )


def _child(name: str, order: str) -> None:
    with rivals.in_double():
        for size in (3, int(order)):  # the first loads and starts what is needed
            ours, peers, _ = _square_case(size)
            rise, _ = peak_bytes({**ours, **peers}[name])
    print(rise / 2**20)


def _matrix_products(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """Waves that fit the grid are eigenvectors: the product has the rank of the train."""
    order, mode, count = (6, 16, 5) if quick else (20, 32, 15)
    step, weights = 2 * np.pi / mode, decaying(count)
    a, x = laplacian(order, mode), waves(order, mode, weights, step)
    values = 1 + order * (2 - 2 * np.cos(step * np.arange(count)))
    exact = waves(order, mode, weights * values, step)

    def call(method: str) -> Any:
        return tt.matmul(a, x, eps=EPS, method=method, rng=0).cores

    yield from contest(
        "P4",
        f"A @ x rounded at 1e-6, d = {order}, n = {mode}, ranks 2 and {2 * count - 1}",
        {method: partial(call, method) for method in METHODS},
        rivals.matrix_products(a.cores, x.cores, EPS),
        error=relative(exact),
        eps=EPS,
        say=say,
        heuristic=HEURISTIC,
        rounds=2 if quick else 5,
    )[0]


def _small(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """What a call costs where hardly anything is computed."""
    for rank in (2,) if quick else (2, 4, 8):
        x = tt.random((4,) * 100, rank, rng=0)
        x = x * (1 / x.norm())
        twice = x + x

        def by_round(method: str, twice: tt.TTTensor = twice) -> Any:
            return twice.round(eps=1e-8, method=method).cores

        ours: Calls = {method: partial(by_round, method) for method in ("svd", "gram")}
        ours["round_sum"] = lambda x=x: tt.round_sum([(1.0, x), (1.0, x)], eps=1e-8).cores
        yield from contest(
            "P4",
            f"x + x rounded at 1e-8, d = 100, n = 4, rank {rank}",
            ours,
            rivals.roundings(twice.cores, 1e-8),
            error=relative(2 * x),
            eps=1e-8,
            say=say,
            rounds=2 if quick else 5,
        )[0]


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2])
