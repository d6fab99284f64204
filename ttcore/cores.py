"""Cores of a train: shapes checked, arrays made uniform, views of each other."""

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ttcore.arrays import NATIVE, are_alike, as_array, check_same_library, common, namespace
from ttcore.errors import TTIndexError, TTShapeError, TTTypeError
from ttcore.typing import Cores

SHOWN = 8  # modes and ranks that a text shows before it abbreviates


def check_cores(cores: Iterable[Any], ndim: int) -> Cores:
    """The cores as arrays of one library and dtype, their shapes checked.

    Parameters
    ----------
    cores : sequence of arrays
        Core k of shape ``(r[k], n[k], r[k+1])`` for ``ndim=3``, ``(r[k], m[k], n[k], r[k+1])`` for
        ``ndim=4``.

    Raises
    ------
    TTShapeError, TTTypeError
        If a core has another number of axes, an empty axis, or ranks that do not meet.
    """
    layout = "(r, n, r')" if ndim == 3 else "(r, m, n, r')"
    if hasattr(cores, "shape") or isinstance(cores, str) or not isinstance(cores, Iterable):
        raise TTTypeError(
            f"cores is a {type(cores).__name__}, expected a sequence of arrays of shape {layout}; "
            "a dense array becomes a train by from_dense or matrix_from_dense"
        )
    arrays = list(cores)
    if not arrays:
        raise TTShapeError("got no cores; a train has at least one")
    alike = are_alike(arrays) and arrays[0].dtype in NATIVE
    if not alike:
        arrays = [as_array(core, f"core {k}") for k, core in enumerate(arrays)]
        check_same_library(arrays, "the cores")
    _check_shapes(tuple([tuple(core.shape) for core in arrays]), ndim, layout)
    return tuple(arrays) if alike else common(arrays)


@lru_cache(maxsize=1024)
def _check_shapes(shapes: tuple[tuple[int, ...], ...], ndim: int, layout: str) -> None:
    rank = 1
    for k, shape in enumerate(shapes):
        if len(shape) != ndim:
            other = {
                (3, 4): "; four-way cores make a TTMatrix",
                (4, 3): "; three-way cores make a TTTensor",
            }
            raise TTShapeError(
                f"core {k} has shape {shape}, expected {ndim} axes "
                f"{layout}{other.get((ndim, len(shape)), '')}"
            )
        if 0 in shape:
            what = "rank 0" if 0 in {shape[0], shape[-1]} else "an empty mode"
            raise TTShapeError(
                f"core {k} has shape {shape} with {what}; ranks and modes are at least 1: zero "
                "is a train of ranks 1 (tt.zeros)"
            )
        if shape[0] != rank:
            raise TTShapeError(
                f"core {k} has left rank {shape[0]}, but core {k - 1} has right rank {rank}; "
                "neighbouring ranks must be equal"
                if k
                else f"core 0 has left rank {shape[0]}, expected 1; sum over the outer rank"
            )
        rank = shape[-1]
    if rank != 1:
        raise TTShapeError(
            f"the last core, core {len(shapes) - 1}, has right rank {rank}, expected 1; "
            "sum over the outer rank or absorb it first"
        )


def read_only(cores: Cores) -> Cores:
    """Read-only views of NumPy cores; arrays of other libraries as they are."""
    return tuple(_read_only(core) if isinstance(core, np.ndarray) else core for core in cores)


def _read_only(core: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    view = core.view()
    view.flags.writeable = False
    return view


def as_three_way(cores: Cores) -> Cores:
    """Matrix cores (r, m, n, r') as tensor cores (r, m n, r')."""
    xp = namespace(*cores)
    return tuple(xp.reshape(g, (g.shape[0], g.shape[1] * g.shape[2], g.shape[3])) for g in cores)


def as_four_way(cores: Cores, row_modes: Sequence[int], col_modes: Sequence[int]) -> Cores:
    """Tensor cores (r, m n, r') as matrix cores (r, m, n, r')."""
    xp = namespace(*cores)
    pairs = zip(cores, row_modes, col_modes, strict=True)
    return tuple(xp.reshape(g, (g.shape[0], m, n, g.shape[2])) for g, m, n in pairs)


def ranks_of(cores: Cores) -> tuple[int, ...]:
    """All d + 1 ranks, the outer ones included."""
    return (int(cores[0].shape[0]), *(int(g.shape[-1]) for g in cores))


def check_modes(modes: Any, name: str) -> tuple[int, ...]:
    """``modes`` (an int or a sequence of ints) as a tuple of positive ints.

    Raises
    ------
    TTTypeError, TTShapeError
        If it is something else, empty, or has a mode below 1.
    """
    try:
        checked: tuple[int, ...] = (operator.index(modes),)
    except TypeError:
        try:
            checked = tuple(operator.index(n) for n in modes)
        except TypeError as error:
            raise TTTypeError(f"{name}={modes!r} is no int or sequence of ints") from error
    if not checked:
        raise TTShapeError(f"{name}=() is empty; a train has at least one mode")
    if min(checked) < 1:
        raise TTShapeError(f"{name}={checked} has a mode below 1; every mode must be at least 1")
    return checked


def check_center(center: Any, d: int) -> int:
    """``center`` as a core number in 0..d-1; negative ones count from the end."""
    try:
        number = operator.index(center)
    except TypeError as error:
        raise TTTypeError(f"center={center!r} is no int") from error
    if not -d <= number < d:
        raise TTIndexError(f"center={number} is out of range for {d} cores; expected {-d}..{d - 1}")
    return number % d


def short(numbers: Sequence[int]) -> str:
    """A tuple, its middle left out where it is long."""
    texts = [digits(n) for n in numbers]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 2], "…", texts[-1]]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def digits(number: int) -> str:
    """An int, by its power of ten where it is long."""
    return str(number) if number < 10**80 else f"~1e{math.floor(math.log10(number))}"
