"""Tensors on the CPU as arrays of NumPy: `ttcore.layers.fc` on memory that both see.

Half precision is converted a block of rows at a time, and the gradients of the cores are added up
in float32.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttcore.cores import check_cores
from ttcore.layers import fc
from ttcore.linear import col_modes, row_modes

HALF = (torch.float16, torch.bfloat16)
BLOCK = 2**22  # bytes that the rows of one block take in float32, those of x and of y

_Array = np.ndarray[Any, Any]


_UNSEEN = (RuntimeError, TypeError)  # a gradient is wanted, conjugated on paper only; bfloat16
_silent = np.errstate(all="ignore")  # infinities and NaN pass without a word, as in torch


@_silent
def run(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """`fc.forward`."""
    workers = torch.get_num_threads()
    if x.dtype not in HALF:
        try:  # views as NumPy sees them; each call to torch counts, and this is one for each
            rows, shift = x.numpy(), None if bias is None else bias.numpy()
            arrays = [g.numpy() for g in cores]
        except _UNSEEN:
            rows, shift = _wide(x), None if bias is None else _wide(bias)
            arrays = [_wide(g) for g in cores]
        return torch.from_numpy(fc.forward(arrays, rows, shift, workers=workers))
    arrays = [_wide(g) for g in cores]
    shift = None if bias is None else _wide(bias)
    step = _rows_at_once(x, arrays)
    parts = (
        torch.from_numpy(fc.forward(arrays, _wide(part), shift, workers=workers))
        for part in _blocks(x, step)
    )
    first = next(parts)
    dtype = first.dtype if first.is_complex() else x.dtype
    y = torch.empty((*x.shape[:-1], first.shape[-1]), dtype=dtype)
    for block, part in zip(_blocks(y, step), chain((first,), parts), strict=True):
        block.copy_(part)
    return y


@_silent
def run_backward(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    """Gradients of x and the cores by `fc.backward`, in the dtypes of their operands."""
    workers = torch.get_num_threads()
    if x.dtype not in HALF:
        try:
            rows, slope = x.numpy(), gy.numpy()
            arrays = [g.numpy() for g in cores]
        except _UNSEEN:
            rows, slope = _wide(x), _wide(gy)
            arrays = [_wide(g) for g in cores]
        gx, gcores, _ = fc.backward(arrays, rows, slope, workers=workers)
        return [_tensor(gx, x), *map(_tensor, gcores, cores)]
    arrays = [_wide(g) for g in cores]
    found = torch.empty(x.shape, dtype=x.dtype)
    step = _rows_at_once(x, arrays)
    sums: tuple[Any, ...] = (0,) * len(arrays)
    for block, *operands in zip(*(_blocks(a, step) for a in (found, x, gy)), strict=True):
        rows, slope = map(_wide, operands)
        gx, gcores, _ = fc.backward(arrays, rows, slope, workers=workers)
        block.copy_(torch.from_numpy(gx))
        sums = tuple(a + b for a, b in zip(sums, gcores, strict=True))
    return [found, *(_tensor(a, like) for a, like in zip(sums, cores, strict=True))]


def _wide(a: Tensor) -> _Array:
    """A view of any tensor, or what it stands for; half precision becomes float32."""
    array: _Array = (a.float() if a.dtype in HALF else a).numpy(force=True)
    return array


def _tensor(a: _Array, like: Tensor) -> Tensor:
    found = torch.from_numpy(a if a.flags.c_contiguous else np.ascontiguousarray(a))
    return found if found.dtype == like.dtype else found.to(like.dtype)


def _blocks(x: Tensor, step: int | None) -> Sequence[Tensor]:
    """Views of so many rows of ``x`` (..., N); all of it as it is for None."""
    return (x,) if step is None else x.reshape(-1, x.shape[-1]).split(step)


def _rows_at_once(x: Tensor, arrays: Sequence[_Array]) -> int | None:
    """A power of two, as plans are made for; None where all of x fits, or does not fit the cores.

    What does not fit is refused with its whole shape.
    """
    cores = check_cores(arrays, 4)
    inputs, outputs = math.prod(col_modes(cores)), math.prod(row_modes(cores))
    step = 1 << max(BLOCK // (4 * (inputs + outputs)), 1).bit_length() - 1
    whole = x.shape[-1:] != (inputs,) or x.numel() <= step * inputs
    return None if whole else step
