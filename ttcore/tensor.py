"""TT-tensors."""

from collections.abc import Sequence
from typing import Any, Self

from ttcore import algebra, contraction
from ttcore.scaling import ldexp
from ttcore.train import Train
from ttcore.typing import Cores


class TTTensor(Train):
    r"""Tensor of order d in the tensor-train format.

    .. math:: x[i_1, \dots, i_d] = G_1[:, i_1, :]\, G_2[:, i_2, :] \cdots G_d[:, i_d, :]

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, n_k, r_k)
        r_0 = r_d = 1; float32, float64, complex64 or complex128, of NumPy or any array-API library.
        Integers become float64; NumPy arrays are
        kept as read-only views, not copied.

    Raises
    ------
    TTShapeError, TTTypeError
        If the cores do not fit together.

    Notes
    -----
    Immutable. Operators: ``+ - *`` elementwise with trains (broadcasting) and numbers, ``/`` by
    numbers; ranks of a sum add, of a
    product multiply: `round` brings them down.

    References
    ----------
    .. [1] I. V. Oseledets, "Tensor-Train Decomposition", SIAM J. Sci. Comput. 33(5), 2295-2317,
       2011. doi:10.1137/090752286

    Examples
    --------
    >>> import ttcore as tt
    >>> x = tt.ones((3, 4, 5)) + 1
    >>> x.shape, x.ranks, x.sum()
    ((3, 4, 5), (1, 2, 2, 1), 120.0)
    """

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The modes."""
        return algebra.modes_of(self._cores)

    def _aligned(self, other: Train) -> tuple[Cores, Cores]:
        self._check_kin(other)
        x, y = self._cores, other.cores
        shape = algebra.broadcast_shapes(x, y)
        return algebra.broadcast(x, shape), algebra.broadcast(y, shape)

    def sum(self, axis: int | Sequence[int] | None = None) -> "float | complex | Self":
        """Sum over all modes (a Python number), or over the modes in ``axis`` (a train).

        Raises
        ------
        TTIndexError, TTTypeError
            If there is no such axis.
        """
        return self._reduced(axis, average=False)

    def mean(self, axis: int | Sequence[int] | None = None) -> "float | complex | Self":
        """Mean over all modes (a Python number), or over the modes in ``axis`` (a train)."""
        return self._reduced(axis, average=True)

    def _reduced(self, axis: Any, *, average: bool) -> "float | complex | Self":
        axes = contraction.check_axes(axis, len(self._cores))
        found = contraction.contract_modes(
            self._cores, contraction.uniform_weights(self._cores, axes, average=average)
        )
        if len(axes) == len(self._cores):
            value, exponent = found
            return ldexp(algebra.scalar(value), exponent)  # type: ignore[no-any-return]
        return self._made(found)
