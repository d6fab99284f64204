"""What TT-tensors and TT-matrices have in common: a base class over a tuple of cores.

A TT-matrix with modes (m_k, n_k) is added, measured and rounded as the TT-tensor with modes m_k
n_k. The subclasses say how their cores become three-way ones
and back.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, Self, overload

import numpy as np

from ttcore import algebra
from ttcore.arrays import check_dtype, check_same_library, dtype_name, namespace
from ttcore.cores import check_center, check_cores, ranks_of, read_only
from ttcore.errors import TTShapeError, TTSizeError, TTTypeError, TTValueError
from ttcore.orthogonal import norm, orthogonalize
from ttcore.rounding import round_cores
from ttcore.scalars import as_number, is_number, kind
from ttcore.scaling import ldexp, log_of
from ttcore.truncation import Info
from ttcore.typing import RNG, Array, Cores

SHOWN = 8  # modes and ranks that a repr shows before it abbreviates


class Train:
    """Base of `TTTensor` and `TTMatrix`; immutable."""

    __slots__ = ("__weakref__", "_center", "_cores")
    __array_ufunc__ = None  # NumPy scalars on the left come to __rmul__; arrays are refused by name
    _core_ndim = 3
    _from_dense = "from_dense"

    def __init__(self, cores: Sequence[Any]) -> None:
        self._cores: Cores = read_only(check_cores(cores, self._core_ndim))
        self._center: int | None = None  # a fact about values: set only on cores that ttcore made

    @classmethod
    def _made(cls, cores: Cores, center: int | None = None) -> Self:
        """A train of cores that ttcore made: they need no checks, and what is known of them is "
        "remembered.
        """
        train = cls.__new__(cls)
        train._cores = read_only(cores)
        train._center = center
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
        """Shape of the dense array."""
        raise NotImplementedError

    @property
    def _modes(self) -> tuple[Any, ...]:
        """What must agree between trains that are paired."""
        return self.shape

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
        dense = self._expanded()
        # of a single core it would be a view
        return dense if len(self._cores) > 1 else namespace(dense).asarray(dense, copy=True)

    def _expanded(self) -> Array:
        return algebra.expand(self._flat)

    def _check_size(self, max_bytes: int) -> None:
        needed = self.size * np.dtype(dtype_name(self.dtype)).itemsize
        if needed > max_bytes:
            raise TTSizeError(
                f"the dense array of shape {_short(self.shape)} takes {_digits(needed)} bytes, "
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
            f"    ranks={_short(self.ranks)}, dtype={dtype_name(self.dtype)},\n"
            f"    {len(self._cores)} cores, {self.num_params} parameters, compression "
            f"{self.compression:.4g})"
        )

    def _describe_modes(self) -> str:
        return f"shape={_short(self.shape)}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy go through the checks, and keep what is known of the cores."""
        return _restored, (type(self), self._cores, self._center)

    def copy(self) -> Self:
        """A train with cores of its own."""
        return self._made(
            tuple(namespace(g).asarray(g, copy=True) for g in self._cores), self._center
        )

    # elementwise

    def astype(self, dtype: Any) -> Self:
        """The train in another dtype.

        Raises
        ------
        TTTypeError
            From complex to real, or for a dtype that trains do not have.
        """
        cores = algebra.cast(self._cores, check_dtype(dtype).name)
        return self._made(cores, self._center if cores[0].dtype == self.dtype else None)

    def conj(self) -> Self:
        """Complex conjugate."""
        return self._made(algebra.conjugate(self._cores), self._center)

    @property
    def real(self) -> Self:
        """Real part; the ranks of a complex train double."""
        return self._like(algebra.real_part(self._flat))

    @property
    def imag(self) -> Self:
        """Imaginary part; the ranks of a complex train double, that of a real one is zero."""
        return self._like(algebra.imaginary_part(self._flat))

    def __neg__(self) -> Self:
        return self._scaled(-1.0)

    def __pos__(self) -> Self:
        return self

    def __mul__(self, other: Any) -> Self:
        if isinstance(other, Train):
            return self._like(algebra.multiply(*self._aligned(other)))
        return self._scaled(other)

    def __rmul__(self, other: Any) -> Self:
        return self._scaled(other)

    def __truediv__(self, other: Any) -> Self:
        if isinstance(other, Train):
            raise TTTypeError(
                "division by a train is not exact in the format; only numbers divide a train"
            )
        return self._scaled(other, divide=True)

    def __add__(self, other: Any) -> Self:
        if not isinstance(other, Train):
            return self._plus_number(other)
        return self._like(algebra.add(*self._aligned(other)))

    def __radd__(self, other: Any) -> Self:
        return self._plus_number(other)

    def __sub__(self, other: Any) -> Self:
        negative = -other if isinstance(other, Train) or is_number(other) else other
        return self.__add__(negative)

    def __rsub__(self, other: Any) -> Self:
        return (-self).__add__(other)

    def _plus_number(self, other: Any) -> Self:
        what = f"cannot add a {type(self).__name__} and"
        self._refuse_array(other, what)
        number, dtype = as_number(other, self._cores[0], what)
        flat = algebra.cast(self._flat, dtype)
        ones = tuple(namespace(g).ones_like(g[:1, :, :1]) for g in flat)
        return self._like(algebra.add(flat, algebra.scale(ones, number)[0]))

    def _check_kin(self, other: "Train") -> None:
        if type(other) is not type(self):
            raise TTTypeError(
                f"one operand is a {type(self).__name__}, the other a {type(other).__name__}; "
                "both must be of one kind"
            )
        check_same_library((self._cores[0], other._cores[0]), "the two trains")

    def _paired(self, other: "Train") -> tuple[Cores, Cores]:
        """Three-way cores of two trains that must have the same modes."""
        self._check_kin(other)
        if self._modes != other._modes:
            raise TTShapeError(
                f"modes differ: {self._describe_modes()} and {other._describe_modes()}; both "
                "trains need the same modes"
            )
        return self._flat, other._flat

    def _aligned(self, other: "Train") -> tuple[Cores, Cores]:
        """Three-way cores of two operands, brought to equal modes."""
        return self._paired(other)

    def _scaled(self, factor: Any, *, divide: bool = False) -> Self:
        verb, joint = ("divide", "by") if divide else ("multiply", "and")
        what = f"cannot {verb} a {type(self).__name__} {joint}"
        self._refuse_array(factor, what)
        number, dtype = as_number(factor, self._cores[0], what)
        if divide and isinstance(number, float | complex) and number == 0:
            raise TTValueError(f"{what} zero; divide by a nonzero number")
        flat = algebra.cast(self._flat, dtype)
        return self._like(*algebra.scale(flat, number, self._center, divide=divide))

    def _refuse_array(self, value: Any, what: str) -> None:
        if not is_number(value) and hasattr(value, "shape"):
            raise TTTypeError(
                f"{what} {kind(value)}: that would expand the train; make it a train first by "
                f"tt.{self._from_dense}"
            )

    # measures

    def norm(self) -> float:
        """Frobenius norm, by orthogonalisation; a Python float, inf or 0 beyond its range."""
        return ldexp(*norm(self._flat, self._center))  # type: ignore[no-any-return]

    def log_norm(self) -> float:
        """Natural logarithm of the norm: finite for every nonzero train, -inf for zero."""
        return log_of(*norm(self._flat, self._center))

    # approximating

    @overload
    def round(
        self,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        atol: float = 0,
        method: str = "svd",
        rng: RNG = None,
        full_output: Literal[False] = False,
    ) -> Self: ...

    @overload
    def round(
        self,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        atol: float = 0,
        method: str = "svd",
        rng: RNG = None,
        full_output: Literal[True],
    ) -> tuple[Self, Info]: ...

    def round(
        self,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        atol: float = 0,
        method: str = "svd",
        rng: RNG = None,
        full_output: bool = False,
    ) -> Self | tuple[Self, Info]:
        r"""A train of smaller ranks close to this one.

        Parameters
        ----------
        eps : float, optional
            Relative Frobenius error; None removes only what is below machine precision.
        max_rank : int or sequence of int, optional
            Cap for all bonds, or one per bond; may break ``eps``.
        atol : float
            Absolute error that may be made in any case: the budget is max(eps ‖x‖, atol).
        method : {'svd', 'gram', 'randomized'}
            Householder QR, Gram matrices, or a random sketch; see the notes.
        rng : seed or Generator
            For 'randomized'.
        full_output : bool
            Whether to return ``(train, info)``.

        Returns
        -------
        train, or (train, Info)

        Raises
        ------
        TTValueError, TTTypeError, TTShapeError
            For an unusable option, or NaN or Inf in a core.

        Notes
        -----
        :math:`\|x - y\| \le \max(\epsilon\|x\|, \mathrm{atol}) + c\sqrt d\,u\,S`, S being the size
        of the representation, such as
        :math:`\sum_i |c_i|\,\|a_i\|` for a sum: what cancelled there cannot be had back. 'svd' and
        'gram' guarantee it; with 'randomized' it
        holds with high probability. Cost O(d n r^3).

        Examples
        --------
        >>> import ttcore as tt
        >>> x = tt.ones((4, 4, 4))
        >>> (x + x).ranks, (x + x).round().ranks
        ((1, 2, 2, 1), (1, 1, 1, 1))
        """
        flat, info, center = round_cores(
            self._flat,
            eps=eps,
            max_rank=max_rank,
            atol=atol,
            method=method,
            rng=rng,
            center=self._center,
        )
        train = self._like(flat, center)
        return (train, info) if full_output else train

    def orthogonalize(self, center: int) -> Self:
        """The same train, left-orthogonal before core ``center`` and right-orthogonal after it.

        Ranks shrink to what the modes can use. Where the norm is too far out of range for one core,
        cores are orthogonal up to powers of two.

        Raises
        ------
        TTIndexError, TTTypeError
            If there is no such core.
        """
        return self._like(*orthogonalize(self._flat, check_center(center, len(self._cores))))


def _restored(kind: type[Train], cores: Cores, center: int | None) -> Train:
    train = kind(cores)
    train._center = center
    return train


def _short(numbers: Sequence[int]) -> str:
    """A tuple, its middle left out where it is long."""
    texts = [_digits(n) for n in numbers]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 2], "…", texts[-1]]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def _digits(number: int) -> str:
    """An int, by its power of ten where it is long."""
    return str(number) if number < 10**80 else f"~1e{math.floor(math.log10(number))}"
