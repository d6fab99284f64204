"""What can be rounded: a train, or a sum or product of trains that is never formed.

Rounding needs two contractions, one from each side. A sum has them term by term, a product factor
by factor; its large cores never exist.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from itertools import accumulate
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from ttcore.algebra import modes_of
from ttcore.arrays import common, default_device_like, namespace, rounding_unit
from ttcore.cores import ranks_of
from ttcore.factorisations import combinations
from ttcore.kernels import dispatch
from ttcore.leading import SHARE
from ttcore.orthogonal import times_left, times_right
from ttcore.rowspace import factor_of_product
from ttcore.scaling import (
    beside_each_other,
    is_ordinary,
    moderate,
    room,
    spread,
    tame,
    tame_cores,
    unit_cores,
)
from ttcore.truncation import noise
from ttcore.typing import Array, Cores

P = ParamSpec("P")
R = TypeVar("R")


class Operand(Protocol):
    """A tensor ``2**exponent`` times a train of cores (r_k, n_k, r_{k+1}), by what they do."""

    modes: tuple[int, ...]
    ranks: tuple[int, ...]  # d + 1, the outer ones 1
    like: Array  # whose library, dtype and device all have

    @property
    def exponent(self) -> int:
        """To be asked for after the products from the right."""

    def left(self, k: int, t: Array) -> Array:
        """The matrix t (q, r_k) times core k: (q, n_k, r_{k+1})."""

    def right(self, k: int, w: Array) -> Array:
        """Core k times the matrix w (r_{k+1}, p): (r_k, n_k, p)."""


def edge(like: Array) -> Array:
    """The matrix [1] that stands for what is left of the first core, or right of the last."""
    return namespace(like).ones((1, 1), dtype=like.dtype, **default_device_like(like))


def first_core(operand: Operand) -> tuple[Array, int]:
    """Core 0 (1, n, r) near unit size, and the exponent of the whole: where sweeps begin."""
    left, exponent = moderate(operand.left(0, edge(operand.like)))
    return left, exponent + operand.exponent


class Formed:
    """A train that exists.

    Its cores are tamed as they are first used, and where the product leaves a doubt: to read them
    all beforehand would take as long as a product with few vectors.
    """

    def __init__(self, cores: Cores) -> None:
        self.cores, self._exponent = list(cores), 0
        self.modes, self.ranks, self.like = modes_of(cores), ranks_of(cores), cores[0]
        self._used, self._seen = [False] * len(cores), [False] * len(cores)
        self._is_told = False  # the exponent

    @property
    def exponent(self) -> int:
        """Once it was asked for, what would change it raises `Untamed`."""
        self._is_told = True
        return self._exponent

    def tamed(self) -> tuple[list[Array], int]:
        """All cores as by `scaling.tame_cores`, and the exponent of the whole."""
        self.cores, exponent = tame_cores(tuple(self.cores))
        self._seen = [True] * len(self.cores)
        self._exponent += exponent
        return self.cores, self._exponent

    def left(self, k: int, t: Array) -> Array:
        """The matrix t (q, r_k) times core k: (q, n_k, r_{k+1})."""
        return self._product(k, lambda core: times_left(t, core))

    def right(self, k: int, w: Array) -> Array:
        """Core k times the matrix w (r_{k+1}, p): (r_k, n_k, p)."""
        return self._product(k, lambda core: times_right(core, w))

    def sketched(
        self, randoms: Sequence[Sequence[np.ndarray]], sizes: Sequence[int]
    ) -> tuple[Any, Any]:
        """Products of the last cores with random trains, by ``kernels.cpu.sketches``.

        As many as turn out to be in range; the others are left to `right`.
        """
        kernel = dispatch.sketches()
        found, exponents = kernel.products(self.cores[:0:-1], randoms, sizes, room(self.like))
        for k in range(1, len(found) + 1):
            self._used[-k] = True
        return found, exponents

    def is_factored(self, k: int, w: Array) -> bool:
        """Whether core k times w is for `factored`."""
        return dispatch.is_grammed(self.cores[k], w) and self.is_heavy

    @cached_property
    def is_heavy(self) -> bool:
        """Whether products with all cores are enough work to load compiled code."""
        work = sum(math.prod(core.shape) * int(core.shape[2]) for core in self.cores)
        return bool(work >= dispatch.LONG)

    def factored(self, k: int, w: np.ndarray) -> np.ndarray | None:
        """`rowspace.factor_of_product` of core k, if its rows are ordinary, and w."""
        found = factor_of_product(self.cores[k], w, math.sqrt(room(self.like)))
        if found is not None:
            self._used[k] = True
        return found

    def ranged(self, k: int, t: np.ndarray, w: np.ndarray, probes: int) -> Any:
        """What ``kernels.cpu.ranges`` finds of t times core k, and w; None where it is not to."""
        m, n, size = t.shape[0], self.modes[k], w.shape[1] - probes
        if self._seen[k] or not dispatch.is_ranged(m * n, size):
            return None
        level = noise(size, rounding_unit(w))
        found = dispatch.ranges().found(t, self.cores[k], w, probes, level, room(self.like))
        if found is not None:
            self._used[k] = True
        return found

    def is_cut(self, k: int, t: Array, w: Array, size: int) -> bool:
        """Whether `cut` is for t times core k, and w: for few combinations beside both sides."""
        core, sides = self.cores[k], (t.shape[0] * self.modes[k], w.shape[1])
        if self._seen[k] or not (dispatch.is_native(core) and self.is_heavy):
            return False
        return SHARE * size < min(sides) and all(dispatch.is_ranged(m, size) for m in sides)

    def cut(self, k: int, t: np.ndarray, w: np.ndarray, size: int) -> Any:
        """What ``kernels.cpu.cuts`` finds of t times core k times w; None if out of range.

        By so many random combinations of columns.
        """
        core = self.cores[k]
        randoms = combinations(w.shape[1], size, complex_=False).astype(core.dtype, copy=False)
        return dispatch.cuts().found(t, core, w, randoms, room(self.like))

    def _product(self, k: int, times: Callable[[Array], Array]) -> Array:
        core = self.cores[k]
        if self._seen[k]:
            return times(core)
        with np.errstate(all="ignore"):
            found = times(core)
        used, self._used[k] = self._used[k], True
        if is_ordinary(found):  # what is not finite in the core would be so here
            return found
        small, exponent = tame(core, f"core {k}")
        self._seen[k] = True
        if not exponent:
            return found
        if used or self._is_told:
            raise Untamed(self)
        self.cores[k] = small
        self._exponent += exponent
        return times(small)


class Untamed(Exception):
    """Huge entries come to light in a core that was used before, where zeros had hidden them."""

    def __init__(self, operand: Formed) -> None:
        super().__init__()
        self.operand = operand


def beginning_again(call: Callable[P, R]) -> Callable[P, R]:
    """The call, once more with all cores tamed where one turns out `Untamed`."""

    @wraps(call)
    def twice(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except Untamed as found:
            found.operand.tamed()
        return call(*args, **kwargs)

    return twice


class Sum:
    """The sum of trains of equal modes and any dtypes."""

    def __init__(self, trains: Sequence[Cores]) -> None:
        d = len(trains[0])
        trains, tame_as_is = beside_each_other(trains)
        every = common([core for cores in trains for core in cores])
        terms = [every[k : k + d] for k in range(0, len(every), d)]
        pairs = [(list(cores), 0) if tame_as_is else tame_cores(cores) for cores in terms]
        self.exponent = max(exponent for _, exponent in pairs)
        if any(exponent for _, exponent in pairs):  # some cores were scaled: all must be
            pairs = [unit_cores(cores) for cores in terms]
            self.exponent = max(exponent for _, exponent in pairs)
            # what vanishes beside the others does so here
            pairs = [(list(spread(cores, e - self.exponent)), 0) for cores, e in pairs]
        self.sites = list(zip(*(cores for cores, _ in pairs), strict=True))
        self.modes, self.like = modes_of(trains[0]), self.sites[0][0]
        inner = [sum(core.shape[0] for core in site) for site in self.sites[1:]]
        self.ranks = (1, *map(int, inner), 1)

    def left(self, k: int, t: Array) -> Array:
        """As of any `Operand`, term by term."""
        xp, site, q = namespace(t), self.sites[k], t.shape[0]
        if self._alike(k):
            r, n, s = site[0].shape
            pieces = xp.permute_dims(xp.reshape(t, (q, len(site), r)), (1, 0, 2))
            found = pieces @ xp.reshape(xp.stack(site), (len(site), r, n * s))
            found = xp.permute_dims(xp.reshape(found, (len(site), q, n, s)), (1, 2, 0, 3))
            return xp.reshape(found, (q, n, len(site) * s))
        pieces = [t] * len(site) if k == 0 else _split(t, 1, [core.shape[0] for core in site])
        parts = [times_left(piece, core) for piece, core in zip(pieces, site, strict=True)]
        return sum(parts[1:], parts[0]) if k == len(self.sites) - 1 else xp.concat(parts, axis=2)

    def right(self, k: int, w: Array) -> Array:
        """As of any `Operand`, term by term."""
        xp, site = namespace(w), self.sites[k]
        if self._alike(k):
            r, n, s = site[0].shape
            stacked = xp.reshape(xp.stack(site), (len(site), r * n, s))
            found = stacked @ xp.reshape(w, (len(site), s, w.shape[1]))
            return xp.reshape(found, (len(site) * r, n, w.shape[1]))
        last = k == len(self.sites) - 1
        pieces = [w] * len(site) if last else _split(w, 0, [core.shape[2] for core in site])
        parts = [times_right(core, piece) for core, piece in zip(site, pieces, strict=True)]
        return sum(parts[1:], parts[0]) if k == 0 else xp.concat(parts, axis=0)

    def _alike(self, k: int) -> bool:
        """Whether the terms go through one batched product."""
        return 0 < k < len(self.sites) - 1 and len({core.shape for core in self.sites[k]}) == 1


def _split(x: Array, axis: int, sizes: Sequence[int]) -> list[Array]:
    """The matrix x cut along an axis into pieces of the given sizes."""
    slices = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    return [x[part, :] if axis == 0 else x[:, part] for part in slices]


class Hadamard:
    """The elementwise product of two trains of equal modes and one dtype."""

    def __init__(self, x: Cores, y: Cores) -> None:
        (self.x, a), (self.y, b) = tame_cores(x), tame_cores(y)
        self.exponent, self.modes, self.like = a + b, modes_of(x), x[0]
        self.ranks = tuple(r * s for r, s in zip(ranks_of(x), ranks_of(y), strict=True))

    def left(self, k: int, t: Array) -> Array:
        """As of any `Operand`, mode by mode."""
        xp, g, h = namespace(t), self.x[k], self.y[k]
        (r, n, r_), (s, _, s_), q = g.shape, h.shape, t.shape[0]
        half = xp.tensordot(xp.reshape(t, (q, r, s)), h, axes=1)  # (q, r, n, s')
        half = xp.reshape(xp.permute_dims(half, (2, 0, 3, 1)), (n, q * s_, r))
        found = xp.reshape(half @ xp.permute_dims(g, (1, 0, 2)), (n, q, s_, r_))
        return xp.reshape(xp.permute_dims(found, (1, 0, 3, 2)), (q, n, r_ * s_))

    def right(self, k: int, w: Array) -> Array:
        """As of any `Operand`, mode by mode."""
        xp, g, h = namespace(w), self.x[k], self.y[k]
        (r, n, r_), (s, _, s_), p = g.shape, h.shape, w.shape[1]
        half = xp.tensordot(h, xp.reshape(w, (r_, s_, p)), axes=((2,), (1,)))  # (s, n, r', p)
        half = xp.reshape(xp.permute_dims(half, (1, 2, 0, 3)), (n, r_, s * p))
        found = xp.reshape(xp.permute_dims(g, (1, 0, 2)) @ half, (n, r, s, p))
        return xp.reshape(xp.permute_dims(found, (1, 2, 0, 3)), (r * s, n, p))


class Composed:
    """A TT-matrix times a TT-matrix: cores (r, m, c, r') and (s, c, n, s') of one dtype.

    Times a TT-tensor where all n are 1.
    """

    def __init__(self, a: Cores, x: Cores) -> None:
        (self.a, i), (self.x, j) = tame_cores(a), tame_cores(x)
        self.exponent, self.like = i + j, x[0]
        self.modes = tuple(int(g.shape[1] * h.shape[2]) for g, h in zip(a, x, strict=True))
        inner = [int(g.shape[0] * h.shape[0]) for g, h in zip(a[1:], x[1:], strict=True)]
        self.ranks = (1, *inner, 1)

    def left(self, k: int, t: Array) -> Array:
        """As of any `Operand`, factor by factor."""
        xp, g, h = namespace(t), self.a[k], self.x[k]
        (r, m, _, r_), (s, _, n, s_), q = g.shape, h.shape, t.shape[0]
        half = xp.tensordot(xp.reshape(t, (q, r, s)), h, axes=1)  # (q, r, c, n, s')
        found = xp.tensordot(half, g, axes=((1, 2), (0, 2)))  # (q, n, s', m, r')
        return xp.reshape(xp.permute_dims(found, (0, 3, 1, 4, 2)), (q, m * n, r_ * s_))

    def right(self, k: int, w: Array) -> Array:
        """As of any `Operand`, factor by factor."""
        xp, g, h = namespace(w), self.a[k], self.x[k]
        (r, m, _, r_), (s, _, n, s_), p = g.shape, h.shape, w.shape[1]
        half = xp.tensordot(h, xp.reshape(w, (r_, s_, p)), axes=((3,), (1,)))  # (s, c, n, r', p)
        found = xp.tensordot(g, half, axes=((2, 3), (1, 3)))  # (r, m, s, n, p)
        return xp.reshape(xp.permute_dims(found, (0, 2, 1, 3, 4)), (r * s, m * n, p))
