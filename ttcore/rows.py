"""Rows and columns of a TT-matrix at a batch of flat indices, dense: what an embedding needs.

On four-way cores (r, m, n, r'). A row is the product of two halves: one by the leading digits of
its index, one by the others. Few halves make many rows: each is computed once, and they are made in
the same way, from shorter ones and the slices of a core.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ttcore.arrays import (
    as_array,
    check_same_library,
    common,
    default_device_like,
    host,
    namespace,
)
from ttcore.cores import check_cores
from ttcore.errors import TTIndexError, TTShapeError, TTSizeError
from ttcore.kernels import dispatch
from ttcore.linear import check_workers, gradient_of, row_modes, transposed
from ttcore.planner import WORTH
from ttcore.scaling import evened, evening, shifted
from ttcore.typing import Array, Cores

__all__ = ["gather_columns", "gather_rows", "gather_rows_backward"]

MOVED = 4  # multiply-adds that take as long as an entry moved
MASK = 8  # a mask of so many numbers is quicker than sorting one of them

Numbers = np.ndarray[Any, np.dtype[np.intp]]


def gather_rows(cores: Sequence[Any], rows: Any, *, workers: int | None = None) -> Array:
    """Rows of a TT-matrix, dense: ``W[rows[b], :]``.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
    rows : (batch,) array of ints
        Flat indices, in C order; negative ones count from the end, batch may be 0.
    workers : int, optional
        Threads of the compiled kernels, as in `linear.matvec`.

    Returns
    -------
    (batch, N) array

    Raises
    ------
    TTShapeError, TTTypeError
        If the cores do not fit together, or ``rows`` is no vector.
    TTIndexError
        If ``rows`` holds no ints, or one is out of bounds.
    TTSizeError
        If no array could hold the rows.

    Notes
    -----
    Repeated rows are computed once, and so are the leading and trailing halves of all rows. Each
    distinct row then costs N r multiply-adds, r the rank between the halves. Differentiable by
    the autodiff of the array's own library.

    Source: V. Khrulkov, O. Hrinchuk, L. Mirvakhabova, I. Oseledets, Tensorized Embedding Layers for
    Efficient Model Compression, 2019, arXiv:1901.10787.

    Examples
    --------
    >>> import ttcore as tt
    >>> W = tt.eye((2, 2))
    >>> tt.rows.gather_rows(W.cores, [2, -1, 2])
    array([[0., 0., 1., 0.],
           [0., 0., 0., 1.],
           [0., 0., 1., 0.]])
    """
    checked = check_cores(cores, 4)
    digits, which = _distinct_rows(checked, rows)
    length = math.prod(int(g.shape[2]) for g in checked)
    if max(which.size, 1) * length * 16 > np.iinfo(np.intp).max:
        raise TTSizeError(
            f"{which.size} rows of {length} entries are more than any array holds; W[i, :] is a "
            "row as a TTTensor"
        )
    return _Product(evened(checked), digits, which.size, check_workers(workers)).rows(which)


def gather_columns(cores: Sequence[Any], columns: Any, *, workers: int | None = None) -> Array:
    """Columns of a TT-matrix, dense, each as a row of the result: ``W[:, columns[b]]``.

    Parameters
    ----------
    cores, columns, workers
        As in `gather_rows`.

    Returns
    -------
    (batch, M) array

    Raises
    ------
    TTShapeError, TTTypeError, TTIndexError
        As `gather_rows`.

    Examples
    --------
    >>> import ttcore as tt
    >>> W = tt.eye((2, 2))
    >>> tt.rows.gather_columns(W.cores, [1])
    array([[0., 1., 0., 0.]])
    """
    return gather_rows(transposed(check_cores(cores, 4)), columns, workers=workers)


def gather_rows_backward(
    cores: Sequence[Any], rows: Any, gy: Any, *, workers: int | None = None
) -> Cores:
    """Gradients of a real loss through ``y = gather_rows(cores, rows)``.

    Parameters
    ----------
    cores, rows, workers
        As in `gather_rows`.
    gy : (batch, N) array
        Gradient of the loss with respect to y.

    Returns
    -------
    tuple of arrays
        Shaped as the cores; for complex ones the conjugate (Wirtinger) gradients that torch uses.
        Each gradient has the dtype of its core; of a real core with a complex gy it is the real
        part.

    Raises
    ------
    TTShapeError, TTTypeError, TTIndexError
        If the shapes do not fit, or an index is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> W = tt.eye((2, 2))
    >>> first, second = tt.rows.gather_rows_backward(W.cores, [3], np.ones((1, 4)))
    >>> first[0, :, :, 0]
    array([[0., 0.],
           [1., 1.]])
    """
    checked = check_cores(cores, 4)
    digits, which = _distinct_rows(checked, rows)
    gy = as_array(gy, "gy")
    expected = (which.size, math.prod(int(g.shape[2]) for g in checked))
    if tuple(gy.shape) != expected:
        raise TTShapeError(
            f"gy has shape {tuple(gy.shape)}, expected {expected}: one row of N = {expected[1]} "
            "entries for each index"
        )
    check_same_library((checked[0], gy), "the cores and gy")
    shifts = evening(checked)
    *promoted, gy = common((*map(shifted, checked, shifts), gy))
    product = _Product(tuple(promoted), digits, which.size, check_workers(workers))
    found = product.gradients(which, gy)
    return tuple(
        gradient_of(g, shifted(h, e)) for g, h, e in zip(checked, found, shifts, strict=True)
    )


class _Level(NamedTuple):
    """A core added to all halves: what they were before, and the digit of each there."""

    state: Array
    parents: Numbers
    digits: Numbers


class _Half(NamedTuple):
    """All distinct halves, which of them the rows have, and how they were made."""

    table: Array
    which: Numbers
    levels: list[_Level]

    def extended(self, digits: Numbers, modes: int) -> "_Half":
        """One more core, of these digits: its level, and which of the new halves the rows have."""
        found, which = _distinct(self.which * modes + digits, self.table.shape[0] * modes)
        level = _Level(self.table, *np.divmod(found, modes))
        return self._replace(which=which, levels=[*self.levels, level])


class _Product:
    """Distinct rows (U, d) of a TT-matrix: their halves, products and gradients."""

    def __init__(self, cores: Cores, digits: Numbers, batch: int, workers: int | None) -> None:
        self.cores, self.digits, self.workers = cores, digits, workers
        shapes = tuple(tuple(int(n) for n in g.shape) for g in cores)
        self.split = _split(shapes, len(digits))
        rank = shapes[self.split][0] if self.split < len(shapes) else 1
        flops = 2 * batch * rank * math.prod(n for _, _, n, _ in shapes)
        self.kernel = dispatch.rows(dispatch.is_native(cores[0]) and flops >= WORTH)

    def rows(self, which: Numbers) -> Array:
        """The rows, each as often as it occurs in ``which``."""
        left, right = self.halves()
        found: Array = self.kernel.products(
            left.table, right.table, left.which, right.which, which, self.workers
        )
        return found

    def halves(self) -> tuple[_Half, _Half]:
        """The leading halves (U_l, P, r) and the trailing ones (U_r, r, Q)."""
        like = self.cores[0]
        xp = namespace(like)
        one = xp.ones((1, 1, 1), dtype=like.dtype, **default_device_like(like))
        left = right = _Half(one, np.zeros(len(self.digits), np.intp), [])
        for k in range(self.split):
            core = self.cores[k]
            left = left.extended(self.digits[:, k], int(core.shape[1]))
            table = self._multiply(*_left_operands(core, left.levels[-1]))  # (U, P n r')
            length = table.shape[1] // core.shape[3]
            left = left._replace(table=xp.reshape(table, (table.shape[0], length, core.shape[3])))
        for k in reversed(range(self.split, len(self.cores))):
            core = self.cores[k]
            right = right.extended(self.digits[:, k], int(core.shape[1]))
            table = self._multiply(*_right_operands(core, right.levels[-1]))  # (U, r n Q)
            length = table.shape[1] // core.shape[0]
            right = right._replace(table=xp.reshape(table, (table.shape[0], core.shape[0], length)))
        return left, right

    def gradients(self, which: Numbers, gy: Array) -> list[Array]:
        """Gradients of the cores, ``gy`` being that of the rows."""
        left, right = self.halves()
        gleft, gright = self.kernel.products_backward(
            left.table, right.table, left.which, right.which, which, gy, self.workers
        )
        found: list[Array] = []
        for core, level in zip(
            reversed(self.cores[: self.split]), reversed(left.levels), strict=True
        ):
            gleft, slices = self._pull_back(gleft, *_left_operands(core, level))
            found.insert(0, _core_of(slices, core))
        for core, level in zip(self.cores[self.split :], reversed(right.levels), strict=True):
            slices, gright = self._pull_back(gright, *_right_operands(core, level))
            found.append(_core_of(slices, core))
        return found

    def _multiply(self, left: Array, right: Array, first: Numbers, second: Numbers) -> Array:
        which = np.arange(first.size)
        found: Array = self.kernel.products(left, right, first, second, which, self.workers)
        return found

    def _pull_back(
        self, g: Array, left: Array, right: Array, first: Numbers, second: Numbers
    ) -> tuple[Array, Array]:
        g = namespace(g).reshape(g, (first.size, left.shape[1] * right.shape[2]))
        which = np.arange(first.size)
        found: tuple[Array, Array] = self.kernel.products_backward(
            left, right, first, second, which, g, self.workers
        )
        return found


def _left_operands(core: Array, level: _Level) -> tuple[Array, Array, Numbers, Numbers]:
    """Shorter halves (U, P, r) and the slices (m, r, n r') of a core behind them."""
    r, m, n, s = core.shape
    return level.state, _slices(core, (m, r, n * s)), level.parents, level.digits


def _right_operands(core: Array, level: _Level) -> tuple[Array, Array, Numbers, Numbers]:
    """The slices (m, r n, r') of a core and shorter halves (U, r', Q) behind them."""
    r, m, n, s = core.shape
    return _slices(core, (m, r * n, s)), level.state, level.digits, level.parents


def _slices(core: Array, shape: tuple[int, ...]) -> Array:
    xp = namespace(core)
    return xp.reshape(xp.permute_dims(core, (1, 0, 2, 3)), shape)


def _core_of(slices: Array, core: Array) -> Array:
    xp = namespace(core)
    r, m, n, s = core.shape
    return xp.permute_dims(xp.reshape(slices, (m, r, n, s)), (1, 0, 2, 3))


def _distinct_rows(cores: Cores, rows: Any) -> tuple[Numbers, Numbers]:
    """Checked indices: the digits (U, d) of the distinct ones, and which of them each is."""
    array = np.asarray(host(rows) if hasattr(rows, "dtype") else rows)
    if array.ndim != 1:
        raise TTShapeError(
            f"the indices have shape {array.shape}, expected (batch,); flatten them first with "
            ".reshape(-1)"
        )
    if array.dtype.kind not in "iu" and array.size:
        raise TTIndexError(f"the indices have dtype {array.dtype}; they must be ints")
    modes = row_modes(cores)
    length = math.prod(modes)
    if array.size and not -length <= int(array.min()) <= int(array.max()) < length:
        b = next(b for b, i in enumerate(array.tolist()) if not -length <= i < length)
        raise TTIndexError(
            f"index {b} is {array[b]}, out of bounds for a matrix with {length} of them"
        )
    numbers = array.astype(np.intp)
    if length <= np.iinfo(np.intp).max:  # else no two numbers are one row
        numbers = np.where(numbers < 0, numbers + length, numbers)
    rest, which = _distinct(numbers, length)
    digits = np.empty((rest.size, len(modes)), np.intp)
    for k in reversed(range(len(modes))):  # of a negative number these are those of its row
        rest, digits[:, k] = np.divmod(rest, modes[k])
    return digits, which


def _distinct(numbers: Numbers, count: int) -> tuple[Numbers, Numbers]:
    """The distinct ones among numbers below ``count``, sorted, and which of them each is."""
    if count > MASK * numbers.size:
        found, which = np.unique(numbers, return_inverse=True)
        return found, which.reshape(-1)
    seen = np.zeros(count, bool)
    seen[numbers] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[numbers]


@lru_cache(maxsize=256)
def _split(shapes: tuple[tuple[int, ...], ...], distinct: int) -> int:
    """Between which cores rows are split, so that halves and their products cost least."""
    d = len(shapes)
    length = math.prod(n for _, _, n, _ in shapes)
    ranks = [1, *(s for *_, s in shapes)]

    def halves(order: Sequence[int]) -> list[int]:
        """Multiply-adds of all halves of so many cores."""
        costs, count, width = [0], 1, 1
        for k in order:
            r, m, n, s = shapes[k]
            count = min(count * m, distinct)
            width *= n
            costs.append(costs[-1] + count * width * (r * s + MOVED * max(r, s)))
        return costs

    left, right = halves(range(d)), halves(range(d - 1, -1, -1))
    return min(
        range(d + 1), key=lambda k: left[k] + right[d - k] + distinct * length * (ranks[k] + MOVED)
    )
