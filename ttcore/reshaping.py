"""Modes put in another order, merged and split, on three-way cores (r, n, r').

Everything here moves an orthogonality centre along the train and cuts what stands there: a
singular value that is dropped then costs no more than its size.
"""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from ttcore.algebra import modes_of
from ttcore.arrays import adjoint, detached, namespace, rounding_unit
from ttcore.cores import digits, short
from ttcore.errors import TTShapeError, TTSizeError, TTTypeError, TTValueError
from ttcore.factorisations import qr, svd
from ttcore.orthogonal import (
    orthogonal_cores,
    passing_core,
    reversed_cores,
    times_left,
    times_right,
)
from ttcore.scaling import absorb, unit
from ttcore.truncation import choose_rank, noise
from ttcore.typing import Array, Cores

LARGEST = 2**27  # entries of a block of modes that may be merged before it is split anew


class Centred:
    """Cores being worked on: orthonormal on both sides of ``at``, where the norm is."""

    def __init__(self, cores: Cores) -> None:
        self.cores, self.exponent = orthogonal_cores(cores, 0)
        self.at = 0
        xp = namespace(*self.cores)
        self.norm = float(xp.linalg.vector_norm(detached(self.cores[0])))

    def move(self, to: int) -> None:
        """Move the centre."""
        xp = namespace(*self.cores)
        while self.at < to:
            r, n, s = self.cores[self.at].shape
            q, t = qr(xp.reshape(self.cores[self.at], (r * n, s)))
            self.cores[self.at] = xp.reshape(q, (r, n, q.shape[1]))
            self.at += 1
            self.cores[self.at] = times_left(t, self.cores[self.at])
        while self.at > to:
            r, n, s = self.cores[self.at].shape
            q, t = qr(adjoint(xp.reshape(self.cores[self.at], (r, n * s))))
            self.cores[self.at] = xp.reshape(adjoint(q), (q.shape[1], n, s))
            self.at -= 1
            self.cores[self.at] = times_right(self.cores[self.at], adjoint(t))

    def cut(self, x: Array, share: float, cap: float = math.inf) -> tuple[Array, Array]:
        """Factors (m, s) and (s, n) of the matrix x at the centre; the second has orthonormal rows.

        What is lost is below ``share`` of the norm, or below the noise of rounding.
        """
        _, values, vh = svd(detached(x), "the centre")
        floor = noise(int(values.shape[0]), rounding_unit(x))
        rank, _ = choose_rank(values, max(share, floor) * self.norm, cap)
        right = vh[:rank, :]
        return x @ adjoint(right), right

    def swap(self, k: int, share: float, cap: float) -> None:
        """Exchange modes k - 1 and k, the centre being at either; it is at k - 1 afterwards."""
        xp = namespace(*self.cores)
        g, h = self.cores[k - 1], self.cores[k]
        (r, n, s), (_, m, t) = g.shape, h.shape
        pair = xp.reshape(xp.reshape(g, (r * n, s)) @ xp.reshape(h, (s, m * t)), (r, n, m, t))
        pair = xp.reshape(xp.permute_dims(pair, (0, 2, 1, 3)), (r * m, n * t))
        left, right = self.cut(pair, share, cap)
        self.cores[k - 1] = xp.reshape(left, (r, m, left.shape[1]))
        self.cores[k] = xp.reshape(right, (right.shape[0], n, t))
        self.at = k - 1

    def split(self, k: int, sizes: Sequence[int]) -> None:
        """Split mode k, where the centre is, into modes of these sizes; the first is the centre."""
        xp = namespace(*self.cores)
        core = self.cores[k]
        found: list[Array] = []
        r, n, s = core.shape
        for size in reversed(sizes[1:]):
            n //= size
            left, right = self.cut(xp.reshape(core, (r * n, size * s)), 0.0)
            found.insert(0, xp.reshape(right, (right.shape[0], size, s)))
            s = left.shape[1]
            core = xp.reshape(left, (r, n, s))
        self.cores[k : k + 1] = [core, *found]

    def merge(self, first: int, last: int) -> None:
        """Merge modes first..last-1 into one, where the centre is moved to."""
        self.move(first)
        xp = namespace(*self.cores)
        core = self.cores[first]
        for other in self.cores[first + 1 : last]:
            s, m, t = other.shape
            merged = times_right(core, xp.reshape(other, (s, m * t)))
            core = xp.reshape(merged, (core.shape[0], core.shape[1] * m, t))
        self.cores[first:last] = [core]

    def drop_ones(self) -> None:
        """Merge modes of 1 into their neighbours; a train of a single entry keeps one core."""
        k = 0
        while k < len(self.cores) and len(self.cores) > 1:
            if self.cores[k].shape[1] == 1:
                first = min(k, len(self.cores) - 2)
                self.merge(first, first + 2)
            else:
                k += 1

    def insert_ones(self, shape: Sequence[int]) -> None:
        """Insert modes of 1 so that the modes are ``shape``."""
        spare = len(shape) - len(self.cores)
        for k, n in enumerate(shape):
            if n == 1 and spare:
                rank = 1 if k == 0 else int(self.cores[k - 1].shape[2])
                self.cores.insert(k, passing_core(rank, self.cores[0]))
                self.at += k <= self.at
                spare -= 1

    def done(self) -> tuple[Cores, int | None]:
        """The cores, scaled back, and their centre."""
        self.cores[self.at], shift = unit(self.cores[self.at])
        return absorb(self.cores, self.exponent + shift, self.at)


def permute(
    cores: Cores, axes: Sequence[int], eps: float = 0.0, caps: Sequence[float] | None = None
) -> tuple[Cores, int | None]:
    """Modes in the order ``axes``, by exchanging neighbours; and the orthogonality centre.

    What is lost is below ``eps`` times the norm in all, and without it below the noise of rounding;
    ``caps`` on the ranks of the bonds, held on the way too, may break that.
    Ranks may grow. Cost O(d n^3 r^3) for each place that a mode moves.
    """
    order = list(range(len(cores)))
    if list(axes) == order:
        return cores, None
    if list(axes) == order[::-1]:
        return reversed_cores(cores), None
    swaps = sum(a > b for k, a in enumerate(axes) for b in axes[k + 1 :])
    work = Centred(cores)
    for place, axis in enumerate(axes):
        now = order.index(axis)
        if now > place:
            work.move(now)
        for k in range(now, place, -1):
            work.swap(k, eps / swaps, caps[k - 1] if caps else math.inf)
        order.insert(place, order.pop(now))
    return work.done()


def reshape(cores: Cores, shape: Sequence[int]) -> tuple[Cores, int | None]:
    """The same entries in C order, as a tensor of another shape; and the orthogonality centre.

    Modes are split and merged between the places where both shapes have a boundary, down to common
    divisors where there are some.

    Raises
    ------
    TTSizeError
        If a block of modes would have to be merged to more than 2**27 numbers before it splits.
    """
    work = Centred(cores)
    work.drop_ones()
    at = 0  # the first core that is not yet as it shall be
    for olds, news in _segments(modes_of(tuple(work.cores)), [n for n in shape if n > 1]):
        pieces = _common_pieces(olds, news)
        if pieces is None:
            _check_block(work.cores[at : at + len(olds)], olds, news)
            work.merge(at, at + len(olds))
            work.split(at, news)
            at += len(news)
            continue
        place = at
        for group in _grouped(pieces, olds):
            work.move(place)
            work.split(place, group)
            place += len(group)
        for group in _grouped(pieces, news):
            work.merge(at, at + len(group))
            at += 1
    work.insert_ones(shape)
    return work.done()


def _segments(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The shortest runs of old and new modes of equal product; all modes are above 1."""
    olds: list[int] = []
    news: list[int] = []
    rest = iter(new)
    for n in old:
        if n == 1:  # a train of a single entry
            return
        olds.append(n)
        while math.prod(news) < math.prod(olds):
            news.append(next(rest))
        if math.prod(news) == math.prod(olds):
            yield olds, news
            olds, news = [], []


def _common_pieces(olds: Sequence[int], news: Sequence[int]) -> list[int] | None:
    """Modes of which both shapes are made by merging; None if their boundaries do not divide."""
    bounds = sorted({*accumulate(olds, operator.mul), *accumulate(news, operator.mul)})
    steps = list(itertools.pairwise([1, *bounds]))
    return None if any(b % a for a, b in steps) else [b // a for a, b in steps]


def _grouped(pieces: Sequence[int], modes: Sequence[int]) -> Iterator[list[int]]:
    """The runs of pieces that make up each mode."""
    rest = iter(pieces)
    for n in modes:
        group: list[int] = []
        while math.prod(group) < n:
            group.append(next(rest))
        yield group


def _check_block(cores: Sequence[Array], olds: Sequence[int], news: Sequence[int]) -> None:
    entries = int(cores[0].shape[0]) * math.prod(olds) * int(cores[-1].shape[2])
    if entries > LARGEST:
        raise TTSizeError(
            f"modes {short(olds)} and {short(news)} share no boundary: they would be merged to "
            f"{entries} numbers, more than {LARGEST}; reshape in steps that share more divisors"
        )


def check_shape(shape: Any, size: int) -> tuple[int, ...]:
    """NumPy's ``shape`` argument of a reshape, -1 resolved.

    Raises
    ------
    TTShapeError, TTTypeError
        If it does not have ``size`` entries, names -1 twice, or is no int or sequence of ints.
    """
    try:
        sizes = [operator.index(shape)] if not isinstance(shape, tuple | list) else list(shape)
        sizes = [operator.index(n) for n in sizes]
    except TypeError as error:
        raise TTTypeError(f"shape={shape!r} is no int or sequence of ints") from error
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) == 1 and known > 0 and size % known == 0:
        sizes[sizes.index(-1)] = size // known
    if not sizes or min(sizes) < 1 or math.prod(sizes) != size:
        raise TTShapeError(
            f"shape={shape} does not hold {digits(size)} entries; its modes must multiply to that, "
            "one of them may be -1"
        )
    return tuple(sizes)


def check_order(axes: Any, d: int) -> tuple[int, ...]:
    """``axes`` as a permutation of 0..d-1; negative ones count from the end.

    Raises
    ------
    TTValueError, TTTypeError
        If it is none.
    """
    try:
        order = tuple(operator.index(axis) for axis in axes)
    except TypeError as error:
        raise TTTypeError(f"axes={axes!r} is no sequence of ints") from error
    found = tuple(axis + d if axis < 0 else axis for axis in order)
    if sorted(found) != list(range(d)):
        raise TTValueError(f"axes={order} is no permutation of the {d} modes 0..{d - 1}")
    return found
