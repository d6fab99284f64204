"""Entries of a TT-tensor at a batch of multi-indices, and gradients.

    y[b] = G_0[:, i_b0, :] @ G_1[:, i_b1, :] @ ... @ G_{d-1}[:, i_b{d-1}, :]        (1 x 1)

Rows that share a digit are multiplied together: a block of rows is sorted by the digit of each mode
in turn, which makes large products of small ones. Caller: ``indexing``.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ttcore.arrays import adjoint, conj, default_device_like, namespace
from ttcore.typing import Array, Cores

ROWS = 2**14


def gather(cores: Cores, index: np.ndarray, workers: int | None = None) -> Array:
    """The entries at ``index``.

    Contract
        cores    (r, n, r') each, of any library
        index    (B, d) intp, NumPy; -n_k <= index[:, k] < n_k, not checked; B >= 0
        workers  threads; the products of an array library use its own
        result   (B,)
    Cost: B sum_k r_k r_{k+1} multiply-adds.
    """
    xp = namespace(*cores)
    parts = [_ones(0, cores[0])[:, 0]]
    for first, last in _blocks(index):
        sorts, where = _sorts(cores, index[first:last])
        rows = _ones(last - first, cores[0])
        for core, buckets in zip(cores, sorts, strict=True):
            rows = _times(_taken(rows, buckets.order), core, buckets)
        parts.append(_taken(rows[:, 0], np.argsort(where)))
    return xp.concat(parts, axis=0)


def gather_backward(
    cores: Cores, index: np.ndarray, gy: Array, workers: int | None = None
) -> Cores:
    """Gradients of the cores; the rows behind every core are computed again, block by block.

    Contract
        gy      (B,), dtype of the cores
        result  one array like each core; conjugated as torch does
    """
    xp = namespace(*cores)
    gcores = [xp.zeros_like(core) for core in cores]
    back = [conj(xp.permute_dims(core, (2, 1, 0))) for core in cores]
    for first, last in _blocks(index):
        sorts, where = _sorts(cores, index[first:last])
        rows, states = _ones(last - first, cores[0]), []
        for core, buckets in zip(cores, sorts, strict=True):
            states.append(_taken(rows, buckets.order))
            rows = _times(states[-1], core, buckets)
        g = xp.reshape(_taken(gy[first:last], where), (last - first, 1))
        for k in reversed(range(len(cores))):
            gcores[k] = gcores[k] + _gradient(states[k], g, sorts[k], int(cores[k].shape[1]))
            g = _taken(_times(g, back[k], sorts[k]), np.argsort(sorts[k].order))
    return tuple(gcores)


class _Buckets(NamedTuple):
    """Rows sorted by a digit: which row comes where, and (digit, start, end) of each bucket."""

    order: np.ndarray
    bounds: list[tuple[int, int, int]]


def _blocks(index: np.ndarray) -> Iterator[tuple[int, int]]:
    for first in range(0, index.shape[0], ROWS):
        yield first, min(first + ROWS, index.shape[0])


def _sorts(cores: Cores, index: np.ndarray) -> tuple[list[_Buckets], np.ndarray]:
    """The rows of a block sorted for each core, from what the core before left; the last order."""
    where = np.arange(index.shape[0])  # row b of the state belongs to row where[b] of the block
    found = []
    for k, core in enumerate(cores):
        digits = index[where, k] % core.shape[1]
        order = np.argsort(digits, kind="stable")
        where, digits = where[order], digits[order]
        starts = np.flatnonzero(np.diff(digits, prepend=-1))
        ends = [*starts[1:].tolist(), digits.size]
        bounds = list(zip(digits[starts].tolist(), starts.tolist(), ends, strict=True))
        found.append(_Buckets(order, bounds))
    return found, where


def _times(rows: Array, core: Array, buckets: _Buckets) -> Array:
    """Sorted rows times the slices of their digits."""
    products = [rows[start:end, :] @ core[:, digit, :] for digit, start, end in buckets.bounds]
    return namespace(rows).concat(products, axis=0)


def _gradient(rows: Array, g: Array, buckets: _Buckets, n: int) -> Array:
    """Gradient of a core (r, n, r') from the rows that met it and the gradients of what it made."""
    xp = namespace(rows)
    products = [adjoint(rows[start:end, :]) @ g[start:end, :] for _, start, end in buckets.bounds]
    which = np.full(n, len(products))  # digits that no row has get the slice of zeros
    which[[digit for digit, _, _ in buckets.bounds]] = np.arange(len(products))
    slices = xp.stack([*products, xp.zeros_like(products[0])], axis=0)
    return xp.permute_dims(_taken(slices, which), (1, 0, 2))


def _taken(rows: Array, order: np.ndarray) -> Array:
    xp = namespace(rows)
    return xp.take(rows, xp.asarray(order, **default_device_like(rows)), axis=0)


def _ones(count: int, like: Array) -> Array:
    return namespace(like).ones((count, 1), dtype=like.dtype, **default_device_like(like))
