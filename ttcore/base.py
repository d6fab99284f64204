"""A train as an object: its cores, sizes, copies, text and dense form."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn, Self

import numpy as np

from ttcore import contraction, display
from ttcore.arrays import copied, dtype_name, namespace
from ttcore.cores import check_cores, digits, ranks_of, read_only, short
from ttcore.errors import TTShapeError, TTSizeError, TTValueError
from ttcore.typing import Array, Cores


class Chain:
    """A tuple of cores that stands for a dense array; immutable."""

    __slots__ = ("__weakref__", "_center", "_cores")
    __array_ufunc__ = None  # NumPy scalars on the left come to __rmul__; arrays are refused by name
    _core_ndim = 3
    _from_dense = "from_dense"

    def __init__(self, cores: Sequence[Any]) -> None:
        self._cores: Cores = read_only(check_cores(cores, self._core_ndim))
        self._center: int | None = None  # a fact about values: set only on cores that ttcore made

    @classmethod
    def _made(cls, cores: Cores, center: int | None = None) -> Self:
        """A train of cores that ttcore made: unchecked, and what is known of them is remembered."""
        train = cls.__new__(cls)
        train._cores = read_only(tuple(_compact(core) for core in cores))
        # arrays of other libraries stay writable: what is known of their values might change
        train._center = center if isinstance(cores[0], np.ndarray) else None
        return train

    # what the subclasses say

    @property
    def _flat(self) -> Cores:
        """The three-way cores (r, n, r')."""
        return self._cores

    def _like(self, flat: Cores, center: int | None = None) -> Self:
        """A train of these three-way cores, otherwise like this one."""
        return self._made(flat, center)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array: of a tensor, its modes."""
        return tuple(int(core.shape[1]) for core in self._cores)

    @property
    def _modes(self) -> tuple[Any, ...]:
        """What must agree between trains that are paired."""
        return self.shape

    @property
    def _core_modes(self) -> list[tuple[int, ...]]:
        """The modes of each core: (n,), or (m, n)."""
        return [tuple(int(n) for n in g.shape[1:-1]) for g in self._cores]

    # being

    @property
    def cores(self) -> Cores:
        """The cores: read-only views of NumPy arrays, arrays of other libraries as they are."""
        return self._cores

    @property
    def ndim(self) -> int:
        """Number of axes of the dense array."""
        return len(self.shape)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d + 1 ranks; the outer ones are 1."""
        return ranks_of(self._cores)

    @property
    def size(self) -> int:
        """Number of entries of the dense array, a Python int of any size."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """dtype of the cores."""
        return self._cores[0].dtype

    @property
    def num_params(self) -> int:
        """Number of entries of all cores."""
        return sum(math.prod(g.shape) for g in self._cores)

    @property
    def nbytes(self) -> int:
        """Bytes of all cores."""
        return self.num_params * np.dtype(dtype_name(self.dtype)).itemsize

    @property
    def compression(self) -> float:
        """``size / num_params``; inf beyond the range of a float."""
        try:
            return self.size / self.num_params
        except OverflowError:
            return math.inf

    def to_dense(self, *, max_bytes: int = 2**33) -> Array:
        """The dense array.

        Parameters
        ----------
        max_bytes : int
            Largest array to make; checked before anything is allocated.

        Raises
        ------
        TTSizeError
            If it would be larger.
        """
        self._check_size(max_bytes)
        if self.ndim > 64 and isinstance(self._cores[0], np.ndarray):
            raise TTShapeError(
                f"NumPy arrays have at most 64 axes, this tensor has {self.ndim}; "
                "sum or index away some of them first"
            )
        dense = self._expanded()
        # of a single core it would be a view
        return dense if len(self._cores) > 1 else copied(dense)

    def _expanded(self) -> Array:
        return namespace(*self._cores).reshape(contraction.expand(self._flat), self.shape)

    def _check_size(self, max_bytes: int) -> None:
        needed = self.size * np.dtype(dtype_name(self.dtype)).itemsize
        if needed > max_bytes:
            raise TTSizeError(
                f"the dense array of shape {short(self.shape)} takes {digits(needed)} bytes, "
                f"more than max_bytes={max_bytes}; "
                "give to_dense a larger max_bytes if it fits the memory"
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """The dense array for NumPy, up to 8 GiB."""
        if copy is False:
            raise TTValueError(
                "a train has no dense array to share; np.asarray(train, copy=False) cannot "
                "work: leave out copy"
            )
        return np.asarray(self.to_dense(), dtype=dtype)

    def __bool__(self) -> NoReturn:
        """Not defined, as for arrays."""
        raise TTValueError(
            f"the truth value of a {type(self).__name__} is ambiguous; compare .norm() with 0, "
            "or two trains with tt.allclose"
        )

    def __repr__(self) -> str:
        """Kind, modes, ranks and dtype, in at most three lines; never entries."""
        return (
            f"{type(self).__name__}({self._describe_modes()},\n"
            f"    ranks={short(self.ranks)}, dtype={dtype_name(self.dtype)},\n"
            f"    {len(self._cores)} cores, {self.num_params} parameters, compression "
            f"{self.compression:.4g})"
        )

    def _repr_html_(self) -> str:
        """The train as notebooks show it: a drawing of its cores, and a caption."""
        return display.html(
            type(self).__name__,
            self._core_modes,
            self.ranks,
            dtype=dtype_name(self.dtype),
            shape=self.shape,
            params=self.num_params,
        )

    def _describe_modes(self) -> str:
        return f"shape={short(self.shape)}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy go through the checks, and keep what is known of the cores."""
        return _restored, (type(self), self._cores, self._center)

    def copy(self) -> Self:
        """A train with cores of its own."""
        return self._made(tuple(map(copied, self._cores)), self._center)


def _restored(kind: type[Chain], cores: Cores, center: int | None) -> Chain:
    train = kind(cores)
    train._center = center if isinstance(train._cores[0], np.ndarray) else None
    return train


def _compact(core: Array) -> Array:
    """A core that is a small part of a larger array, such as a factor that was cut: copied."""
    base = getattr(core, "base", None)
    if isinstance(core, np.ndarray) and isinstance(base, np.ndarray):
        return core.copy() if base.nbytes > 2 * core.nbytes else core
    return core
