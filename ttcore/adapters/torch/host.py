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
from ttcore.errors import TTValueError
from ttcore.layers import direct, fc
from ttcore.linear import col_modes, row_modes

_CPU = torch.device("cpu")
ALONE = 2**15  # entries that torch adds up in one thread
HALF = (torch.float16, torch.bfloat16)
_NATIVE: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
BLOCK = 2**22  # bytes that the rows of one block take in float32, those of x and of y

_Array = np.ndarray[Any, Any]


_UNSEEN = (RuntimeError, TypeError)  # a gradient is wanted, conjugated on paper only; bfloat16
_silent = np.errstate(all="ignore")  # infinities and NaN pass without a word, as in torch


def run(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """`fc.forward`."""
    places = _addresses((x, *cores) if bias is None else (x, *cores, bias))
    if places is None:
        return _by_arrays(x, cores, bias)
    shapes = tuple([g.shape for g in cores])
    outputs = None if bias is None else bias.shape
    dtype = _NATIVE[x.dtype]
    found = direct.product(dtype, x.shape, shapes, outputs, torch.get_num_threads())
    if found is None:
        return _by_arrays(x, cores, bias)
    y = _empty(found.output, x.dtype)
    count = len(cores) + 1
    found.run(places[1:count], places[0], 0 if bias is None else places[count], y.data_ptr())
    return y


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """On the CPU, whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device=_CPU)


def _addresses(tensors: Sequence[Tensor]) -> list[int] | None:
    """Of tensors that are no more than their memory in C order, of one dtype; None for others."""
    dtype = tensors[0].dtype
    if dtype not in _NATIVE:
        return None
    places, size = [], dtype.itemsize
    try:
        for a in tensors:
            if a.dtype is not dtype or not a.is_contiguous() or a.is_neg():
                return None
            place = a.data_ptr()
            if not place or place % size or (a.storage_offset() and not _has_memory(a)):
                return None
            places.append(place)
    except RuntimeError:  # sparse, say
        return None
    return places


def _has_memory(a: Tensor) -> bool:
    """Whether the storage is there: it can be given back while the tensor lives."""
    last = sum((n - 1) * step for n, step in zip(a.shape, a.stride(), strict=True))
    needed = (a.storage_offset() + last + 1) * a.element_size() if a.numel() else 0
    return a.untyped_storage().nbytes() >= needed


def _check_memory(tensors: Sequence[Tensor]) -> None:
    """NumPy would make up memory that is not there."""
    for a in tensors:
        plain = a.layout is torch.strided and not a._is_zerotensor()
        if plain and not _has_memory(a):
            raise TTValueError(
                f"a tensor of shape {tuple(a.shape)} has no memory: its storage was resized to "
                f"{a.untyped_storage().nbytes()} bytes; gather or restore the parameters first"
            )


@_silent
def _by_arrays(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    _check_memory((x, *cores) if bias is None else (x, *cores, bias))
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
    y = _empty((*x.shape[:-1], first.shape[-1]), dtype)
    for block, part in zip(_blocks(y, step), chain((first,), parts), strict=True):
        block.copy_(part)
    return y


def run_backward(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    """Gradients of x and the cores by `fc.backward`, in the dtypes of their operands."""
    gy = gy.contiguous()  # sums and means send one number many times
    places = _addresses((x, gy, *cores))
    if places is not None:
        shapes = tuple([g.shape for g in cores])
        found = direct.gradients(_NATIVE[x.dtype], x.shape, shapes, torch.get_num_threads())
        if found is not None and gy.shape == found.output:
            results = [_empty(a.shape, x.dtype) for a in (x, *cores)]
            gx, *gcores = [a.data_ptr() for a in results]
            found.run(places[2:], places[0], places[1], gx, gcores)
            return results
    return _back_by_arrays(x, cores, gy)


@_silent
def _back_by_arrays(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    _check_memory((x, gy, *cores))
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
    found = _empty(x.shape, x.dtype)
    step = _rows_at_once(x, arrays)
    sums: tuple[Any, ...] = (0,) * len(arrays)
    for block, *operands in zip(*(_blocks(a, step) for a in (found, x, gy)), strict=True):
        rows, slope = map(_wide, operands)
        gx, gcores, _ = fc.backward(arrays, rows, slope, workers=workers)
        block.copy_(torch.from_numpy(gx))
        sums = tuple(a + b for a, b in zip(sums, gcores, strict=True))
    return [found, *(_tensor(a, like) for a, like in zip(sums, cores, strict=True))]


@_silent
def sum_of_rows(a: Tensor) -> Tensor:
    """``a`` (..., M), its leading axes summed.

    torch's own sum of a large array wakes threads, which then spin for a while in the way of ours.
    """
    if a.dtype not in _NATIVE or a.numel() < ALONE:
        return a.sum(tuple(range(a.ndim - 1)))
    return torch.from_numpy(fc.sum_of_rows(a.numpy(force=True).reshape(-1, a.shape[-1])))


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
