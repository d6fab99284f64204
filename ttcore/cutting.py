"""Cutting trailing modes off a dense array: the steps of a TT-SVD, each with its error measured.

A tall matrix (N, m), whose columns are the modes to cut off, is cut by a basis of its row space.
That comes from a sample of the rows, from their Gram matrix, or from random combinations of them;
a pass over the matrix proves it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ttcore import streaming, tall
from ttcore.arrays import (
    adjoint,
    astype,
    detached,
    dtype_name,
    host,
    largest,
    namespace,
    rounding_unit,
)
from ttcore.factorisations import check_finite, eigh, svd
from ttcore.kernels.dispatch import tsqr
from ttcore.kernels.portable.products import rows_times
from ttcore.scaling import ldexp, reach, unit
from ttcore.sketching import CONFIDENCE, OVERSAMPLING
from ttcore.streaming import Stream
from ttcore.truncation import Info, choose_rank, noise
from ttcore.typing import Array


class Sweep:
    """A sweep from the last mode to the first: what it may discard, and what it did.

    The data are ``2**exponent`` times what is worked on.
    """

    def __init__(self, a: Array | Stream, tolerance: float, caps: tuple[float, ...]) -> None:
        self.dtype = dtype_name(a.dtype)
        self.unit = rounding_unit(a)
        self.tolerance = tolerance  # of one bond, relative to the norm
        self.caps = caps
        self.norm = -1.0  # negative until the array was read
        self.square = 0.0  # of the error so far
        self.missed = 0.0  # error that may stand at any angle to all other
        self.lost: list[float] = []  # per bond
        self.exponent = 0
        self.once = isinstance(a, Stream) and not a.source.is_in_memory  # another pass is dear

    def cut_by_sample(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array | Stream, list[Array]] | None:
        """Cut ``modes`` off a tall matrix (N, prod(modes) * rank).

        In one pass, if some rows tell the row space of all; the pass itself proves it. Otherwise
        None, and nothing is changed. Returns what is left (N, r), and the cores of the modes.
        """
        x = detached(a)
        m = int(x.shape[1])
        lowest = max(self.tolerance, noise(m, self.unit))
        basis = self._sampled_basis(x, lowest / 3.0, modes, rank)
        if basis is None:
            return None
        with np.errstate(all="ignore"):  # of squares out of range; they are seen below
            z, inner, missed = tall.passes(x).deflate(x, basis)
            square = float(np.trace(inner).real) + missed**2
        norm = self.norm if self.norm >= 0 else math.sqrt(square) if square > 0 else -1.0
        if not self._in_range(square) or missed > 0.5 * lowest * norm:
            return None
        before, self.norm = self.norm, norm
        if lowest < tsqr.plain_gram_floor(len(inner), 2.0**-53) and not tsqr.is_graded(inner):
            root = tall.fine_factor(z, inner, 1.0)
        else:
            root = tsqr.graded_root(inner)
        small = root @ adjoint(basis)
        seen = math.sqrt(lowest**2 - (missed / norm) ** 2) * norm
        slack = 2.0 * noise(m, self.unit) * norm
        cores, lost, own, cut = self._cut_small(small, modes, rank, seen)
        allowed = math.hypot(*(max(x, self.tolerance * norm) for x in lost)) + slack
        # the two parts are orthogonal but for at most missed * cut, which must not count
        crossed = missed * cut > slack * math.hypot(missed, cut)
        if math.hypot(missed, cut) > allowed or (crossed and not self.once):
            self.norm = before
            return None
        if crossed:  # a second pass costs more than what this takes from the budget of all bonds
            self.missed += missed
            self.tolerance -= min(self.tolerance, missed / norm / math.sqrt(len(self.caps)))
            seen = max(self.tolerance, noise(m, self.unit)) * norm
            cores, lost, own, cut = self._cut_small(small, modes, rank, seen)
            self.square += cut**2
        else:
            self.square += math.hypot(missed, cut) ** 2
        first = lost[0] + missed if crossed else math.hypot(lost[0], missed)
        self.lost = [first, *lost[1:], *self.lost]
        turn = adjoint(basis) @ own
        if turn.shape[0] == turn.shape[1] and _is_unitary(turn, self.unit):
            # the basis of the sample is the one sought but for a rotation, which the core takes
            turned = np.asarray(turn, cores[0].dtype) @ cores[0].reshape(turn.shape[1], -1)
            return z, [turned.reshape(cores[0].shape), *cores[1:]]
        turn = np.asarray(turn, z.dtype)
        return z.turned(turn) if isinstance(z, Stream) else rows_times(z, turn), cores

    def _sampled_basis(
        self, a: Array | Stream, tolerance: float, modes: Sequence[int], rank: int
    ) -> Array | None:
        """An orthonormal basis (m, r) of what a sample of the rows shows.

        Where it may be read again: with the ranks within that the cores will have, lest something
        has to be cut off that is not orthogonal to what the basis misses.
        """
        if isinstance(a, Stream):
            rows = streaming.sampled_rows(a, tolerance)
        elif isinstance(a, np.ndarray):
            rows = tsqr.sampled_rows(a, tolerance)
        else:  # the way back of a gradient needs projections alone
            rows = None
        if rows is None:
            return None
        if self.once or len(modes) == 1:
            return adjoint(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        return _joined(self._cut(rows, modes, rank, tolerance / 2.0, capped=False)[1])

    def _cut_small(
        self, small: Array, modes: Sequence[int], rank: int, budget: float
    ) -> tuple[list[Array], list[float], Array, float]:
        """Cores, norms cut at each bond, the basis of the cores, and the norm cut in all."""
        _, cores, lost = self._cut(small, modes, rank, budget=budget)
        cores = [astype(core, self.dtype) for core in cores]
        own = _joined(cores)
        kept = small @ own
        return cores, lost, own, float(np.linalg.norm(small - kept @ adjoint(own)))

    def _in_range(self, square: float) -> bool:
        """Whether a sum of squares is far from both ends of the range, and no NaN."""
        single = self.unit > 2.0**-30
        low, high = (2.0**-60, 2.0**180) if single else (2.0**-600, 2.0**900)
        return low < square < high

    def cut_by_gram(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array | Stream, list[Array]]:
        """The same by the Gram matrix of all rows, or two, or Householder's method, as needed."""
        x, kernel, scale = detached(a), tall.passes(a), 1.0
        reflected = tall.is_reflected(x) and not self._is_coarse(x, 2.0**-53)
        first = tall.triangle if reflected else kernel.gram
        with np.errstate(all="ignore"):  # of squares out of range; they are seen at once
            found = first(x, scale=scale)
        if self.norm < 0:
            scale = self._scale(a, _square(found, reflected))
            found = found if scale == 1.0 else first(x, scale=scale)
            self.norm = math.sqrt(max(_square(found, reflected), 0.0))
        slack = 2.0 * noise(int(a.shape[1]), self.unit) * self.norm
        for r, sure in [(found, True)] if reflected else self._factors(x, found, scale):
            _, cores, lost = self._cut(r, modes, rank)
            cores = [astype(core, self.dtype) for core in cores]
            left, error = kernel.project(a, _joined(cores), scale=scale)
            allowed = math.hypot(*(max(x, self.tolerance * self.norm) for x in lost))
            if error <= allowed + (slack if sure else 0.0):
                break
        self.square += error**2
        self.lost = [*(min(x, error) for x in lost), *self.lost]  # one Gram matrix sees noise
        return left, cores

    def _is_coarse(self, a: Array | Stream, unit: float) -> bool:
        """Whether the tolerance is above what one Gram matrix of that precision sees."""
        m = int(a.shape[1])
        return max(self.tolerance, noise(m, self.unit)) >= tsqr.plain_gram_floor(m, unit)

    def _factors(self, a: Array | Stream, g: Array, scale: float) -> Iterator[tuple[Array, bool]]:
        """Factors R of a, each more certain than the one before; and whether u alone limits it."""
        if self._is_coarse(a, rounding_unit(g)):
            yield tsqr.r_factor(a, g, fine=False, scale=scale), False
        yield tall.fine_factor(a, g, scale), True
        if not tall.is_reflected(a):
            yield tall.triangle(a, scale), True

    def cut_by_sketch(
        self, a: Array | Stream, modes: Sequence[int], rank: int, generator: np.random.Generator
    ) -> tuple[Array | Stream, list[Array]] | None:
        """The same by random combinations of the rows, ever more until the error is small enough.

        None, with nothing changed, where half as many as there are rows or columns do not suffice,
        or where squares leave the range.
        """
        x, kernel, before = detached(a), tall.passes(a), self.norm
        m, bond = int(a.shape[1]), self._bond(modes)
        least = max(self.tolerance, noise(m, self.unit))
        enough = int(min(self.caps[bond] + OVERSAMPLING, m))  # where the cap binds
        for basis, missed, norm in tall.ranges(x, enough, generator):
            if not self._in_range(norm**2):
                break
            self.norm = norm if before < 0 else before  # an estimate, at first
            if missed > least * self.norm / CONFIDENCE and basis.shape[1] < enough:
                continue
            root = self._root(x, basis)
            if before < 0:
                self.norm = math.hypot(tall.norm(root), missed)
            budget = least * self.norm
            if missed < budget:
                budget = math.sqrt(budget**2 - missed**2)
            _, cores, lost = self._cut(root @ adjoint(basis), modes, rank, budget=budget)
            cores = [astype(core, self.dtype) for core in cores]
            left, inner, error = kernel.deflate(a, _joined(cores))
            if before < 0:
                self.norm = math.hypot(math.sqrt(float(np.trace(host(inner)).real)), error)
            share = least * self.norm
            capped = [
                core.shape[0] >= cap for core, cap in zip(cores, self.caps[bond:], strict=False)
            ]
            allowed = math.hypot(
                *(max(x, share) if cap else share for x, cap in zip(lost, capped, strict=True))
            )
            # what the cap takes from the projection it takes from the whole matrix too
            binds = basis.shape[1] >= enough and capped[0] and lost[0] > share
            if error > allowed + 2.0 * noise(m, self.unit) * self.norm and not binds:
                continue
            self.square += error**2
            first = math.sqrt(max(error**2 - sum(x**2 for x in lost[1:]), lost[0] ** 2))
            self.lost = [first, *lost[1:], *self.lost]
            return left, cores
        self.norm = before
        return None

    def _root(self, a: Array | Stream, basis: Array) -> Array:
        """R with R^H R the Gram matrix of ``a @ basis``; by one more pass where digits count."""
        m = int(a.shape[1])
        g = tall.passes(a).gram(a, basis=basis)
        coarse = tsqr.plain_gram_floor(int(g.shape[0]), rounding_unit(g))
        if max(self.tolerance, noise(m, self.unit)) >= coarse or tsqr.is_graded(host(g)):
            return tsqr.graded_root(g)
        turn = eigh(g)[1]
        return tsqr.graded_root(tall.passes(a).gram(a, basis=basis @ turn)) @ adjoint(turn)

    def cut_rest(
        self, a: Array | Stream, modes: Sequence[int], rank: int
    ) -> tuple[Array, list[Array]]:
        """Cut ``modes`` off a matrix (n, prod(modes) * rank) of any proportions, by SVD."""
        if isinstance(a, Stream):
            rows = a.in_memory()
            if not math.isfinite(largest(rows)):
                a.largest()  # names the entry
            a = rows
        if self.norm < 0:
            check_finite(a, "a")
            a, self.exponent = unit(a)
        left, cores, lost = self._cut(a, modes, rank)
        self.square += sum(x**2 for x in lost)
        self.lost = [*lost, *self.lost]
        return left, cores

    def _cut(
        self,
        x: Array,
        modes: Sequence[int],
        rank: int,
        budget: float | None = None,
        *,
        capped: bool = True,
    ) -> tuple[Array, list[Array], list[float]]:
        """Cut ``modes`` off x (l, n_1 ... n_k rank) by truncated SVDs, the last one first.

        ``budget`` is what each may discard, if not the usual. Returns the rest, cores, norms cut.
        """
        xp = namespace(x)
        bond = self._bond(modes)
        cores: list[Array] = []
        lost: list[float] = []
        for t in reversed(range(len(modes))):
            rows = xp.reshape(x, (-1, modes[t] * rank))
            _, s, vh = svd(detached(rows), "a")
            if budget is None and self.norm < 0:
                self.norm = float(xp.linalg.vector_norm(s))
            usual = max(self.tolerance, noise(int(s.shape[0]), self.unit)) * self.norm
            cap = self.caps[bond + t] if capped else math.inf
            new, tail = choose_rank(s, usual if budget is None else budget, cap)
            cores.insert(0, xp.reshape(vh[:new, :], (new, modes[t], rank)))
            lost.insert(0, tail)
            x, rank = rows @ adjoint(vh[:new, :]), new
        return x, cores, lost

    def _bond(self, modes: Sequence[int]) -> int:
        """Number of the bond before these modes, which are the last that are left."""
        return len(self.caps) - len(self.lost) - len(modes)

    def _scale(self, a: Array | Stream, square: float) -> float:
        """Power of two that brings the entries near 1.

        1.0 where their squares, whose sum is given, are far from both ends of the range.
        """
        if self._in_range(square):
            return 1.0
        if isinstance(a, Stream):
            size = a.largest()
        else:
            sizes = [largest(a[i:j, :]) for i, j in tsqr.blocks(a)]
            size = max(sizes, key=lambda x: (math.isnan(x), x))
            if not math.isfinite(size):
                check_finite(a, "a")
        limit = reach(a)
        self.exponent = max(-limit, min(limit, math.frexp(size)[1]))
        return 2.0**-self.exponent

    def info(self, ranks: tuple[int, ...], method: str) -> Info:
        """The report, on the scale of the data."""
        error = (self.missed + math.sqrt(self.square)) / self.norm if self.norm else 0.0
        discarded = tuple(ldexp(x, self.exponent) for x in self.lost)
        return Info(error, "bound" if self.missed else "measured", ranks, discarded, method)


def _square(found: Array, is_factor: bool) -> float:
    """Sum of the squared entries behind a factor R, or behind the Gram matrix."""
    if is_factor:
        return tall.norm(found) * tall.norm(found)
    return float(np.trace(host(found)).real)


def _is_unitary(x: np.ndarray[Any, Any], unit: float) -> bool:
    """To a few units of roundoff."""
    off = x.conj().T @ x - np.eye(x.shape[1])
    return bool(np.abs(off).max() <= 8.0 * x.shape[0] * unit)


def _joined(cores: Sequence[Array]) -> Array:
    """The basis (n_1 ... n_k r', r) that right-orthogonal cores stand for."""
    xp = namespace(*cores)
    joined = xp.reshape(cores[-1], (cores[-1].shape[0], -1))
    for core in reversed(cores[:-1]):
        r, n, s = core.shape
        joined = xp.reshape(xp.reshape(core, (r * n, s)) @ joined, (r, -1))
    return adjoint(joined)
