"""One layer's product, or its gradients, in one call on addresses.

Where a product takes microseconds, NumPy's view of a framework's array takes as long: here nothing
but addresses is handed over. The bits are those of ``chain`` for the same order of contraction.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray

from ttcore.kernels.cpu import costs, merging, stages, team
from ttcore.kernels.cpu.buffers import give, take
from ttcore.kernels.cpu.cache import compiled
from ttcore.kernels.cpu.memory import pointer
from ttcore.kernels.cpu.tables import GRAIN, goes_by_stages, tables_of
from ttcore.typing import Stage

# numbers at the head of a plan; tables of stages, shapes and beginnings of the cores come behind
(
    STAGES, CORES, BATCH, INPUTS, OUTPUTS, ENTRIES, MATS, SUPERCORE, PREFIXES, GROUP, STATE, STATES,
    HALVED, HALF, SHARES, SHARE, HEAD,
) = range(17)  # fmt: skip


class Program(NamedTuple):
    """What `forward` or `backward` needs to know besides addresses."""

    zero: Any
    plan: np.ndarray[Any, Any]
    scratch: int  # entries
    shared: bool  # by two threads, a half of the row each
    workers: int


@lru_cache(maxsize=1024)
def program(
    shapes: tuple[tuple[int, ...], ...],
    order: tuple[Stage, ...],
    batch: int,
    dtype: str,
    workers: int,
    *,
    back: bool,
) -> Program | None:
    """The program for these cores (r, m, n, r'), or None where the pool's threads could help."""
    info = tables_of(shapes, order)
    zero = np.dtype(dtype).type(0)
    shared = batch == 1 and info.halved > 0
    flops = batch * info.flops * (3 if back else 1)
    shares = 1
    if back:
        shares = 2 if shared else costs.shares(batch, zero.itemsize * info.mats)
    if workers > 1 and not shared and flops > GRAIN and batch > 1:
        return None
    if not back and goes_by_stages(info, batch, workers):
        return None
    head = (
        len(order), len(shapes), batch, order[0].outer * order[0].k * order[0].inner, info.rows_out,
        sum(map(math.prod, shapes)), info.mats, info.supercore, info.prefixes, info.group,
        info.state, info.states, info.halved, info.half, shares, -(-batch // shares),
    )  # fmt: skip
    plan = np.concatenate([head, info.table, info.shapes, info.starts], axis=None)
    scratch = 3 * info.state + info.states if back else 2 * info.state
    scratch += shared * (6 if back else 4) * info.half + back * shares * info.mats
    return Program(zero, plan, scratch, shared and (back or workers > 1), workers)


def forward(found: Program, cores: Sequence[int], x: int, bias: int, y: int) -> None:
    """``y = x W^T + b`` for addresses of C-contiguous arrays; without a bias its address is 0."""
    zero, plan, entries, shared, workers = found
    places = np.array([x, bias, y, *cores], np.uintp)
    scratch = take(entries, zero.dtype)
    board = team.board_for(zero.dtype, workers) if shared else None
    # with nobody awake the plain program does as well
    if board is None or not (
        board[team.AWAKE] and _forward_in_halves(zero, plan, places, scratch, board)
    ):
        _forward(zero, plan, places, scratch)
    give(scratch)


def backward(
    found: Program, cores: Sequence[int], x: int, gy: int, gx: int, gcores: Sequence[int]
) -> None:
    """Gradients of x and the cores, written to their addresses."""
    zero, plan, entries, shared, workers = found
    places = np.array([x, gy, gx, *cores, *gcores], np.uintp)
    scratch = take(entries, zero.dtype)
    if shared:
        board = team.board_for(zero.dtype, workers)
        while not _backward_in_halves(zero, plan, places, scratch, board):
            board = team.new_board()  # the other one is somebody else's just now
    else:
        _backward(zero, plan, places, scratch)
    give(scratch)


@compiled
def _tables(plan):
    """Of stages, of the shapes of the cores; where each core begins."""
    count, cores = plan[STAGES], plan[CORES]
    end = HEAD + count * merging.COLUMNS
    table = plan[HEAD:end].reshape(count, merging.COLUMNS)
    shapes = plan[end : end + 4 * cores].reshape(cores, 4)
    return table, shapes, plan[end + 4 * cores :]


@compiled
def _array(zero, address, entries):
    return carray(pointer(zero, address), entries)


@compiled
def _matrix(zero, address, rows, columns):
    return _array(zero, address, rows * columns).reshape(rows, columns)


@compiled
def _gathered(zero, plan, places, starts):
    """All cores back to back."""
    flat = np.empty(plan[ENTRIES], _array(zero, places[0], 1).dtype)
    for core in range(plan[CORES]):
        end = plan[ENTRIES] if core == plan[CORES] - 1 else starts[core + 1]
        values = _array(zero, places[core], end - starts[core])
        first = np.uintp(starts[core])
        for e in range(np.uintp(values.size)):  # loops: slices take seconds to compile
            flat[first + e] = values[e]
    return flat


@compiled
def _opened(zero, plan, places):
    """The table of stages, all cores back to back, the matrices of the stages."""
    table, shapes, starts = _tables(plan)
    flat = _gathered(zero, plan, places, starts)
    mats = merging.build(zero, flat, shapes, starts, table, plan[SUPERCORE], plan[MATS])
    return table, flat, mats


@compiled
def _sums(plan, scratch):
    """Zeros for the gradients of the matrices, in scratch; and the rest of it."""
    entries = plan[SHARES] * plan[MATS]
    sums = scratch[:entries]
    for e in range(np.uintp(entries)):
        sums[e] = 0.0
    return sums.reshape(plan[SHARES], plan[MATS]), scratch[entries:]


@compiled
def _spread(zero, plan, places, flat, sums):
    """Gradients of the cores from the sums of those of the matrices, each to its place."""
    table, shapes, starts = _tables(plan)
    gflat = np.empty_like(flat)
    merging.spread(
        zero, flat, shapes, starts, table, plan[SUPERCORE], plan[PREFIXES], sums, gflat
    )  # fmt: skip
    for core in range(plan[CORES]):
        end = plan[ENTRIES] if core == plan[CORES] - 1 else starts[core + 1]
        values = _array(zero, places[core], end - starts[core])
        first = np.uintp(starts[core])
        for e in range(np.uintp(values.size)):
            values[e] = gflat[first + e]


@compiled
def _add_bias(zero, plan, bias, y):
    if bias:
        shift = _array(zero, bias, plan[OUTPUTS])
        for b in range(plan[BATCH]):
            row = y[b]
            for e in range(np.uintp(plan[OUTPUTS])):
                row[e] += shift[e]


@compiled
def _forward(zero, plan, places, scratch):
    table, _, mats = _opened(zero, plan, places[3:])
    batch, largest = plan[BATCH], plan[STATE]
    x = _matrix(zero, places[0], plan[BATCH], plan[INPUTS])
    y = _matrix(zero, places[2], plan[BATCH], plan[OUTPUTS])
    stages.forward(zero, table, mats, x, y, 0, batch, scratch, largest, plan[GROUP])
    _add_bias(zero, plan, places[1], y)


@compiled
def _forward_in_halves(zero, plan, places, scratch, board):
    table, _, mats = _opened(zero, plan, places[3:])
    x = _matrix(zero, places[0], 1, plan[INPUTS])
    y = _matrix(zero, places[2], 1, plan[OUTPUTS])
    if not team.forward(
        zero, board, table, plan[HALVED], plan[HALF], mats, x, y, scratch, plan[STATE]
    ):
        return False
    _add_bias(zero, plan, places[1], y)
    return True


@compiled
def _backward(zero, plan, places, scratch):
    table, flat, mats = _opened(zero, plan, places[3:])
    batch, shares, share, cores = plan[BATCH], plan[SHARES], plan[SHARE], plan[CORES]
    x = _matrix(zero, places[0], plan[BATCH], plan[INPUTS])
    gy = _matrix(zero, places[1], plan[BATCH], plan[OUTPUTS])
    gx = _matrix(zero, places[2], plan[BATCH], plan[INPUTS])
    sums, scratch = _sums(plan, scratch)
    for s in range(shares):
        stages.backward(
            zero, table, mats, x, gy, gx, sums[s],
            s * share, min((s + 1) * share, batch), scratch, plan[STATE], plan[GROUP],
        )  # fmt: skip
    _spread(zero, plan, places[3 + cores :], flat, sums)


@compiled
def _backward_in_halves(zero, plan, places, scratch, board):
    table, flat, mats = _opened(zero, plan, places[3:])
    x = _matrix(zero, places[0], 1, plan[INPUTS])
    gy = _matrix(zero, places[1], 1, plan[OUTPUTS])
    gx = _matrix(zero, places[2], 1, plan[INPUTS])
    sums, scratch = _sums(plan, scratch)
    if not team.backward(
        zero, board, table, plan[HALVED], plan[HALF], mats, x, gy, gx, sums, scratch, plan[STATE]
    ):
        return False
    _spread(zero, plan, places[3 + plan[CORES] :], flat, sums)
    return True
