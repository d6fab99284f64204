"""How other programs store the cores of a layer, and the same cores in the layout of ttcore.

Each function takes arrays and gives cores (r_{k-1}, m_k, n_k, r_k), m: output mode, n: input mode.
Values are only moved: conversions are exact.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from ttcore.arrays import as_array, namespace
from ttcore.cores import check_modes
from ttcore.errors import TTShapeError
from ttcore.layers.modes import check_layer_modes
from ttcore.typing import Array, Cores


def tensornet_tf_cores(stored: Sequence[Any], in_modes: Any, out_modes: Any) -> Cores:
    """TensorNet-TF, ``mat_core_k``: matrices (m_k r_k, r_{k-1} n_k), all axes in C order."""
    ins, outs = check_layer_modes(in_modes, out_modes)
    arrays = [as_array(a, f"core {k}") for k, a in enumerate(stored)]
    if len(arrays) != len(ins):
        raise TTShapeError(f"got {len(arrays)} cores for {len(ins)} modes; one for each is needed")
    rank, cores = 1, []
    for k, (a, n, m) in enumerate(zip(arrays, ins, outs, strict=True)):
        shape = tuple(int(size) for size in a.shape)
        if len(shape) != 2 or shape[0] % m or shape[1] != rank * n or not shape[0]:
            raise TTShapeError(
                f"core {k} has shape {shape}, expected (out_k r_k, r_k-1 in_k) = "
                f"({m} r, {rank * n}): output mode {m}, input mode {n}, left rank {rank}"
            )
        new = shape[0] // m
        cores.append(_moved(a, (m, new, rank, n), (2, 0, 3, 1)))
        rank = new
    if rank != 1:
        raise TTShapeError(
            f"the last core has shape {tuple(arrays[-1].shape)}, which means a right rank of "
            f"{rank}, expected 1: that program would mix the rank with the batch"
        )
    return tuple(cores)


def tensornet_tf_2016_cores(weights: Any, in_modes: Any, out_modes: Any, ranks: Any) -> Cores:
    """TensorNet-TF's first release, ``weights``: C-ordered blocks (r_{k-1}, n_k, m_k, r_k)."""
    ins, outs = check_layer_modes(in_modes, out_modes)
    full = _check_ranks(ranks, len(ins))
    shapes = [(full[k], n, m, full[k + 1]) for k, (n, m) in enumerate(zip(ins, outs, strict=True))]
    blocks = _blocks(weights, "weights", [math.prod(s) for s in shapes])
    return tuple(_moved(b, s, (0, 2, 1, 3)) for b, s in zip(blocks, shapes, strict=True))


def theano_cores(cores_arr: Any, in_modes: Any, out_modes: Any, ranks: Any) -> Cores:
    """TensorNet for Theano, ``cores_arr``: C blocks (n_k, r_k, r_{k-1}, m_k), last core first."""
    ins, outs = check_layer_modes(in_modes, out_modes)
    full = _check_ranks(ranks, len(ins))
    shapes = [(n, full[k + 1], full[k], m) for k, (n, m) in enumerate(zip(ins, outs, strict=True))]
    blocks = _blocks(cores_arr, "cores_arr", [math.prod(s) for s in reversed(shapes)])
    pairs = zip(reversed(blocks), shapes, strict=True)
    return tuple(_moved(block, shape, (2, 3, 0, 1)) for block, shape in pairs)


def matlab_cores(core: Any, in_modes: Any, out_modes: Any, ranks: Any) -> Cores:
    """TT-Toolbox's tt_matrix: Fortran-ordered blocks (r_{k-1}, row_k, column_k, r_k).

    Its mode 1 is the least significant, ours the most: the order of the cores is reversed, and no
    vector needs a permutation.
    """
    ins, outs = check_layer_modes(in_modes, out_modes)
    full = _check_ranks(ranks, len(ins))
    # read in C order, a Fortran block (r, m, n, r') is (r', n, m, r)
    shapes = [(full[k + 1], n, m, full[k]) for k, (n, m) in enumerate(zip(ins, outs, strict=True))]
    flat = as_array(core, "core")
    if 1 in flat.shape:  # a column, as MATLAB keeps vectors
        flat = namespace(flat).reshape(flat, (-1,))
    blocks = _blocks(flat, "core", [math.prod(s) for s in shapes])
    moved = [_moved(b, s, (0, 2, 1, 3)) for b, s in zip(blocks, shapes, strict=True)]
    return tuple(reversed(moved))


def t3f_dense_cores(cores: Sequence[Any]) -> Cores:
    """t3f's KerasDense: (r_{k-1}, in_k, out_k, r_k), for ``y = x W``."""
    arrays = [as_array(a, f"core {k}") for k, a in enumerate(cores)]
    for k, a in enumerate(arrays):
        if a.ndim != 4:
            raise TTShapeError(
                f"core {k} has shape {tuple(a.shape)}, expected (r_k-1, in_k, out_k, r_k)"
            )
    return tuple(_moved(a, tuple(a.shape), (0, 2, 1, 3)) for a in arrays)


def _moved(a: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    xp = namespace(a)
    moved = xp.permute_dims(xp.reshape(a, shape), axes)
    return np.ascontiguousarray(moved) if isinstance(a, np.ndarray) else moved


def _check_ranks(ranks: Any, d: int) -> tuple[int, ...]:
    """All d + 1 ranks, or the d - 1 inner ones completed; the outer ones must be 1."""
    full = check_modes(ranks, "ranks") if len(ranks) else ()
    full = full if len(full) == d + 1 else (1, *full, 1)
    if len(full) != d + 1:
        raise TTShapeError(
            f"ranks={tuple(ranks)} has {len(ranks)} entries, expected {d + 1}, or the {d - 1} "
            "inner ones"
        )
    if full[0] != 1 or full[-1] != 1:
        raise TTShapeError(
            f"ranks={tuple(ranks)} has outer ranks {full[0]} and {full[-1]}, expected 1 and 1"
        )
    return full


def _blocks(flat: Any, name: str, sizes: Sequence[int]) -> list[Array]:
    """A vector cut into blocks of these sizes."""
    flat = as_array(flat, name)
    if tuple(flat.shape) != (sum(sizes),):
        raise TTShapeError(
            f"{name} has shape {tuple(flat.shape)}, expected ({sum(sizes)},): modes and ranks make "
            f"cores of {', '.join(map(str, sizes))} numbers"
        )
    ends = accumulate(sizes, initial=0)
    return [flat[first:last] for first, last in pairwise(ends)]
