"""A TT-matrix times dense rows, and the gradients: compiled twin of ``portable.chain``.

The contract is the twin's, for float32 and float64 of NumPy. A row of the batch goes through all
stages while its state is in the cache; the order of additions is fixed by shapes alone.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ttcore.kernels.cpu import costs, merging, team
from ttcore.kernels.cpu import stages as programs
from ttcore.kernels.cpu.buffers import give, take
from ttcore.kernels.cpu.pool import run_blocks
from ttcore.kernels.cpu.tables import GRAIN, Tables, goes_by_stages, tables_of
from ttcore.typing import Cores, Stage

COLUMNS = 16  # so many columns become rows at a time: those of a cache line of float32
COLUMN_ENTRIES = 2**18  # fewer where they are long

Array = np.ndarray[Any, Any]


class Prepared(NamedTuple):
    """A chain's tables and the matrices of its stages."""

    info: Tables
    mats: Array


def matvec(cores: Cores, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """See the twin; cores and x of one dtype, float32 or float64."""
    return apply(prepare(cores, stages), x, stages, workers)


def prepare(cores: Cores, stages: Sequence[Stage]) -> Any:
    """See the twin."""
    info = tables_of(tuple(core.shape for core in cores), tuple(stages))
    flat = _flat(cores)
    return Prepared(info, _matrices(flat.dtype.type(0), info, flat))


def apply(matrices: Any, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """See the twin."""
    info, mats = matrices
    zero, x = x.dtype.type(0), _plain(x)
    y = np.empty((x.shape[0], info.rows_out), x.dtype)
    if x.shape[0] == 1 and info.halved:
        board = team.board_for(x.dtype, workers)
        # with nobody awake the plain program does as well, and is loaded sooner
        if board[team.AWAKE] and _in_halves(matrices, board, x, y):
            return y
    if goes_by_stages(info, x.shape[0], workers):
        _stage_by_stage(matrices, x, y, stages, workers)
        return y

    def block(first: int, last: int) -> None:
        scratch = take(2 * info.state, x.dtype)
        programs.forward(zero, info.table, mats, x, y, first, last, scratch, info.state, info.group)
        give(scratch)

    grain = info.group * max(1, GRAIN // info.flops // info.group)
    run_blocks(block, x.shape[0], grain, workers)
    return y


def _in_halves(matrices: Prepared, board: Array, x: Array, y: Array) -> bool:
    """One row shared by two threads; False if the board is somebody else's."""
    info, mats = matrices
    scratch = take(4 * info.half + 2 * info.state, x.dtype)
    done: bool = team.forward(
        x.dtype.type(0), board, info.table, info.halved, info.half, mats, x, y, scratch, info.state
    )
    give(scratch)
    return done


def _stage_by_stage(
    matrices: Prepared, x: Array, y: Array, stages: Sequence[Stage], workers: int | None
) -> None:
    """The rows of x, few and long, each shared by all workers: same products, same bits."""
    info, mats = matrices
    zero, batch = x.dtype.type(0), x.shape[0]
    half = batch * info.state // info.group
    scratch = take(2 * half, x.dtype)
    state = x.reshape(-1)
    for t, stage in enumerate(stages):
        new = y.reshape(-1) if t == len(stages) - 1 else scratch[(t % 2) * half :]

        block = partial(programs.part, zero, info.table[t], mats, state, new)
        count = batch * stage.outer
        pieces = max(1, 2 * count * stage.rows * stage.k * stage.inner // (GRAIN // 2))
        run_blocks(block, count, -(-count // pieces), workers)
        state = new
    give(scratch)


def matmat(cores: Cores, x: Array, stages: Sequence[Stage], workers: int | None = None) -> Array:
    """See the twin; cores and x of one dtype, float32 or float64."""
    info, mats = prepare(cores, stages)
    zero, x = x.dtype.type(0), _plain(x)
    y = np.empty((info.rows_out, x.shape[1]), x.dtype)

    length = x.shape[0] + info.rows_out
    width = max(COLUMNS // 4, min(COLUMNS, COLUMN_ENTRIES // length))

    def block(first: int, last: int) -> None:
        scratch = take(2 * info.state + width * length, x.dtype)
        programs.columns(
            zero, info.table, mats, x, y, first, last, scratch, info.state, info.group, width
        )
        give(scratch)

    run_blocks(block, x.shape[1], width * max(1, GRAIN // info.flops // width), workers)
    return y


def matvec_backward(
    cores: Cores, x: Array, gy: Array, stages: Sequence[Stage], workers: int | None = None
) -> tuple[Array, Cores]:
    """See the twin; all of one dtype, float32 or float64."""
    shapes = tuple(core.shape for core in cores)
    info = tables_of(shapes, tuple(stages))
    zero, x, gy, flat = x.dtype.type(0), _plain(x), _plain(gy), _flat(cores)
    mats = _matrices(zero, info, flat)
    batch = x.shape[0]
    gx = np.empty(x.shape, x.dtype)
    shares = costs.shares(batch, mats.nbytes) if batch != 1 else 1 + (info.halved > 0)
    share = -(-batch // shares) if batch else 1
    kept = take(shares * mats.size, x.dtype)
    sums = kept[: shares * mats.size].reshape(shares, mats.size)
    sums.fill(0)

    if batch == 1 and info.halved:
        _back_in_halves(info, mats, x, gy, gx, sums, workers)
        return gx, _pulled_back(info, flat, kept, sums, shapes)

    def block(first: int, last: int) -> None:
        scratch = take(3 * info.state + info.states, x.dtype)
        for s in range(first, last):
            programs.backward(
                zero, info.table, mats, x, gy, gx, sums[s],
                s * share, min((s + 1) * share, batch), scratch, info.state, info.group,
            )  # fmt: skip
        give(scratch)

    run_blocks(block, shares, max(1, GRAIN // (3 * info.flops * share)), workers)
    return gx, _pulled_back(info, flat, kept, sums, shapes)


def _back_in_halves(
    info: Tables, mats: Array, x: Array, gy: Array, gx: Array, sums: Array, workers: int | None
) -> None:
    """One row, in two halves whoever does them: the bits are the same with one worker."""
    zero = x.dtype.type(0)
    scratch = take(6 * info.half + 3 * info.state + info.states, x.dtype)
    board = team.board_for(x.dtype, workers)
    while not team.backward(
        zero, board, info.table, info.halved, info.half, mats, x, gy, gx, sums, scratch, info.state
    ):
        board = team.new_board()  # the other one is somebody else's just now
    give(scratch)


def _pulled_back(
    info: Tables, flat: Array, kept: Array, sums: Array, shapes: Sequence[tuple[int, ...]]
) -> Cores:
    """The gradients of the cores from the partial sums of those of the matrices."""
    gflat = np.empty_like(flat)
    zero = flat.dtype.type(0)
    merging.spread(
        zero, flat, info.shapes, info.starts, info.table, info.supercore, info.prefixes, sums,
        gflat,
    )  # fmt: skip
    give(kept)
    ends = (*info.begins[1:], gflat.size)
    return tuple([gflat[a:b].reshape(s) for a, b, s in zip(info.begins, ends, shapes, strict=True)])


def _flat(cores: Cores) -> Array:
    return np.concatenate(cores, axis=None)


def _matrices(zero: Any, info: Tables, flat: Array) -> Array:
    return merging.build(
        zero, flat, info.shapes, info.starts, info.table, info.supercore, info.mats
    )


def _plain(x: Array) -> Array:
    """The array C-contiguous and aligned; copied only if it is not."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x
    return np.require(x, requirements=["C", "A"])
