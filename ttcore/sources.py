"""Where blocks come from: files, data sets, or objects that make them as they are asked for."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import array_api_compat
import numpy as np

from ttcore.arrays import compute_dtype
from ttcore.errors import TTShapeError, TTTypeError
from ttcore.linear import pairing
from ttcore.mapped import Mapped
from ttcore.progress import Meter
from ttcore.typing import Array

SMALL = 2**25  # bytes up to which an array is loaded whole

Key = tuple[slice, ...]


def stays_out(a: Any) -> bool:
    """Whether ``a`` is to be read in blocks: a large memmap, or a large source of slices."""
    if isinstance(a, np.ndarray):
        return isinstance(a, np.memmap) and a.nbytes > SMALL
    if not all(hasattr(a, name) for name in ("shape", "dtype", "__getitem__")):
        return False
    if (hasattr(a, "cores") and hasattr(a, "to_dense")) or type(a).__module__.startswith(
        "scipy.sparse"
    ):
        return False
    if isinstance(a, np.generic) or array_api_compat.is_array_api_obj(a):
        return False
    size = math.prod(a.shape) * getattr(a.dtype, "itemsize", 8)
    return bool(a.shape) and (size > SMALL or (size > 0 and not hasattr(a, "__array__")))


class Source:
    """An array-like that is read by slices of its leading axes.

    Parameters
    ----------
    data : object
        Has ``shape``, ``dtype``, and ``data[slices]`` for a tuple of slices of the leading axes.
    what : str
        Its name in messages.
    meter : Meter
        Told what is read.
    """

    is_reversible = True  # whether it can be read by slices of its trailing axes

    def __init__(self, data: Any, what: str, meter: Meter) -> None:
        self.data, self.what, self.meter = data, what, meter
        self._mapped = Mapped(data)
        self.shape = tuple(int(n) for n in data.shape)
        try:
            self.stored = np.dtype(data.dtype)
        except TypeError as error:
            raise TTTypeError(
                f"{what} has dtype {data.dtype}, which NumPy does not know"
            ) from error
        self.dtype = np.dtype(compute_dtype(self.stored.name, what))

    @property
    def is_in_memory(self) -> bool:
        """Whether another pass costs no more than the work on it."""
        return isinstance(self.data, np.ndarray) and not isinstance(self.data, np.memmap)

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return math.prod(self.shape) * int(self.stored.itemsize)

    @property
    def readers(self) -> int:
        """How many threads may read at once: two keep a disk busy.

        What slicing does to objects of others, and whether it may do so twice at a time, is not
        known.
        """
        return 2 if type(self.data) is np.memmap and self._mapped.usable else 1

    def read(self, key: Key, out: Array) -> Array:
        """The entries at ``key`` in ``out``, a flat array that has room for them."""
        shape = _shape_of(key, self.shape)
        block = out[: math.prod(shape)].reshape(shape)
        piece = self._piece(key)
        if not isinstance(piece, np.ndarray):
            piece = np.asarray(piece)
        if piece.shape != shape or piece.dtype.kind not in "biufc":
            raise TTShapeError(
                f"{self.what}[{key}] gave {piece.dtype} of shape {piece.shape}, expected {shape}: "
                f"its shape is {self.shape}"
            )
        if not self._mapped.read(piece, block):
            self._mapped.ask(piece)
            np.copyto(block, piece, casting="unsafe")
            self._mapped.let_go()
        return block

    def _piece(self, key: Key) -> Any:
        return self.data[key[0] if len(key) == 1 else key]

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Where the entry with this index stands in the array that the user passed in."""
        return index


class Reversed(Source):
    """Another source, its axes in reverse; read by slices of its trailing axes."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.data, source.what, source.meter)
        self._source = source
        self.shape = source.shape[::-1]

    def _piece(self, key: Key) -> Any:
        rest = (slice(0, n) for n in self.shape[len(key) :])
        return np.asarray(self._source._piece((*key, *rest)[::-1])).T

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """See `Source`."""
        return self._source.place(index[::-1])


class Paired(Source):
    """A matrix (M, N) as an array (m_1, n_1, m_2, n_2, ...) without the modes of 1.

    Read by rectangles, which are permuted on their way into the block; slices of trailing axes
    would be none.
    """

    is_reversible = False

    def __init__(
        self, data: Any, what: str, meter: Meter, rows: Sequence[int], cols: Sequence[int]
    ) -> None:
        super().__init__(data, what, meter)
        self._matrix = self.shape
        self.shape, self._order = pairing(rows, cols)
        self._split = sum(n > 1 for n in rows)  # axes of the rows, which come first in the order

    def _piece(self, key: Key) -> Any:
        whole = (*key, *(slice(0, n) for n in self.shape[len(key) :]))
        sides = self._order[: self._split], self._order[self._split :]
        rectangle = []
        for side in sides:
            first = last = 0
            for axis in side:  # all slices but one are single indices or whole axes, in this order
                first = first * self.shape[axis] + whole[axis].start
                last = last * self.shape[axis] + whole[axis].stop - 1
            rectangle.append(slice(first, last + 1))
        piece = np.asarray(super()._piece(tuple(rectangle)))
        lengths = [whole[axis].stop - whole[axis].start for axis in self._order]
        interleaved = sorted(range(len(lengths)), key=lambda axis: self._order[axis])
        return piece.reshape(lengths).transpose(interleaved)

    def place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """See `Source`."""
        found = []
        for side in (self._order[: self._split], self._order[self._split :]):
            at = 0
            for axis in side:
                at = at * self.shape[axis] + index[axis]
            found.append(at)
        return tuple(found)


def _shape_of(key: Key, shape: Sequence[int]) -> tuple[int, ...]:
    return (*(k.stop - k.start for k in key), *shape[len(key) :])


def keys_of_blocks(shape: Sequence[int], axes: int, most: int) -> Iterator[Key]:
    """Slices of the first ``axes`` axes, in C order, that cut an array into blocks.

    A block has at most ``most`` entries, or one row of the axes after those.
    """
    size, cut = math.prod(shape[axes:]), axes
    while cut > 0 and size * shape[cut - 1] <= most:
        cut -= 1
        size *= shape[cut]
    if cut == 0:
        yield (slice(0, shape[0]),)
        return
    length = shape[cut - 1]
    step = max(1, most // size)
    step = -(-length // -(-length // step))  # all about equally long
    for outer in product(*(range(n) for n in shape[: cut - 1])):
        for first in range(0, length, step):
            last = slice(first, min(first + step, length))
            yield (*(slice(i, i + 1) for i in outer), last)
