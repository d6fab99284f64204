"""What TT-tensors and TT-matrices have in common: elementwise algebra, measures, rounding.

A TT-matrix with modes (m_k, n_k) is added, measured and rounded as the TT-tensor with modes
m_k n_k. The subclasses say how their cores become three-way ones and back.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from ttcore import algebra, plotting
from ttcore.arrays import check_dtype, check_same_library, dtype_name, host, namespace
from ttcore.base import Chain
from ttcore.cores import check_center
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.orthogonal import norm, orthogonalize, spectra
from ttcore.rounding import round_cores
from ttcore.scalars import as_number, is_number, kind
from ttcore.scaling import ldexp, log_of
from ttcore.truncation import Info
from ttcore.typing import RNG, Cores

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Train(Chain):
    """Base of `TTTensor` and `TTMatrix`."""

    __slots__ = ()

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
        # a core that is orthogonal in single precision is not so in double
        center = self._center if dtype == dtype_name(self.dtype) else None
        return self._like(*algebra.scale(flat, number, center, divide=divide))

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

    def spectra(self) -> tuple[np.ndarray[Any, Any], ...]:
        """Singular values of the unfoldings, one array for each of the d - 1 bonds.

        They are relative to the norm: the squares of an array sum to 1, unless the train is zero.
        Entry k - 1 belongs to the bond of rank ``ranks[k]`` and has at most so many values,
        descending. Found by orthogonalisation, hence accurate to u times the size of the
        representation; cost O(d n r^3).

        Raises
        ------
        TTValueError
            If a core holds NaN or Inf.

        Examples
        --------
        >>> import ttcore as tt
        >>> x = tt.ones((4, 4, 4)) + tt.rank_one([[1.0, -1.0, 1.0, -1.0]] * 3)
        >>> [s.round(3).tolist() for s in x.spectra()]
        [[0.707, 0.707], [0.707, 0.707]]
        """
        return tuple(host(values) for values in spectra(self._flat))

    # looking

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the cores, their modes and the ranks between them.

        The thickness of a line grows with the logarithm of its rank or mode. In a matrix, row modes
        point up and column modes down. Of long trains the first and the last cores are drawn.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default: a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ModuleNotFoundError
            Without Matplotlib, which comes with ``pip install "ttcore[plot]"``.
        """
        return plotting.plot_train(self._core_modes, self.ranks, ax)

    def plot_spectra(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the singular values of each bond, relative to the largest, on a logarithmic scale.

        What lies below the dotted line, the machine epsilon of the dtype, is noise. Parameters,
        result and errors as for `plot`.
        """
        return plotting.plot_spectra(self.spectra(), ax)

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
            'svd', the usual choice; the same by Gram matrices alone, where QR is slow, as on a GPU;
            a random sketch whose size doubles until independent probes find the error small enough,
            or none where rows are redundant to rounding.
            Long NumPy trains of small ranks go through the same compiled call by 'svd' and 'gram'.
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
