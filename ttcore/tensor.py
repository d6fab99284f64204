"""TT-tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from ttcore import algebra, contraction, indexing, reshaping
from ttcore.scaling import ldexp
from ttcore.train import Train
from ttcore.truncation import check_eps, check_max_rank
from ttcore.typing import Array, Cores


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

    def _aligned(self, other: Train) -> tuple[Cores, Cores]:
        self._check_kin(other)
        x, y = self._cores, other.cores
        shape = algebra.broadcast_shapes(x, y)
        return algebra.broadcast(x, shape), algebra.broadcast(y, shape)

    # parts

    def __len__(self) -> int:
        """Size of the first mode."""
        return self.shape[0]

    def __iter__(self) -> "Iterator[float | complex | Self]":
        """The parts ``x[0]``, ``x[1]``, ... along the first mode."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """``x[key]``, as in NumPy: ints, slices, None, Ellipsis, arrays of ints or bools.

        Ints alone give a Python number, anything else a TTTensor; exact. Index arrays on modes
        that are not neighbours cost ranks up to the product of what lies between.

        Raises
        ------
        TTIndexError
            Where NumPy raises an IndexError, and where the result would have no entries.

        Examples
        --------
        >>> import numpy as np
        >>> import ttcore as tt
        >>> x = tt.from_dense(np.arange(24.0).reshape(2, 3, 4))
        >>> round(x[1, 2, 3], 9), x[:, ::-1, None, [0, 3]].shape
        (23.0, (2, 3, 1, 2))
        """
        found = indexing.index(self._cores, key)
        if len(found) == 2 and isinstance(found[1], int):
            return ldexp(algebra.scalar(found[0]), found[1])
        return self._made(found)

    def gather(self, indices: Any, *, workers: int | None = None) -> Array:
        """The entries at a batch of multi-indices, dense.

        Parameters
        ----------
        indices : (batch, d) array of ints
            Negative ones count from the end; batch may be 0.
        workers : int, optional
            Threads of the compiled kernels, as in `linear.matvec`.

        Returns
        -------
        (batch,) array

        Raises
        ------
        TTShapeError, TTIndexError
            If ``indices`` has another shape or dtype, or one is out of bounds.

        Notes
        -----
        Costs batch * sum r_k r_{k+1} multiply-adds, or fewer where cores are merged first.
        Gradients: `ttcore.indexing.gather_backward`.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.ones((2, 3, 4)).gather([[0, 0, 0], [1, 2, -1]])
        array([1., 1.])
        """
        return indexing.gather(self._cores, indices, workers=workers)

    # reductions

    def contract(self, vectors: Mapping[int, Any]) -> "float | complex | Self":
        """Weighted sums: ``{axis: vector}``, each vector as long as its mode.

        Returns a Python number if every mode is contracted, else the train of the other modes.
        Complex vectors are not conjugated.

        Raises
        ------
        TTIndexError, TTShapeError, TTTypeError
            If there is no such axis, or a vector does not fit it.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.ones((2, 3, 4)).contract({0: [1.0, 2.0], -1: [0.25] * 4}).to_dense()
        array([3., 3., 3.])
        """
        return self._number_or_train(
            *contraction.check_vectors(self._cores, vectors), whole=len(vectors) == self.ndim
        )

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
        axes = contraction.check_axes(axis, self.ndim)
        weights = contraction.uniform_weights(self._cores, axes, average=average)
        return self._number_or_train(self._cores, weights, whole=len(axes) == self.ndim)

    def _number_or_train(
        self, cores: Cores, weights: dict[int, Array], *, whole: bool
    ) -> "float | complex | Self":
        found = contraction.contract_modes(cores, weights)
        if whole:
            value, exponent = found
            return ldexp(algebra.scalar(value), exponent)  # type: ignore[no-any-return]
        return self._made(found)

    # modes

    def permute(
        self,
        axes: Sequence[int],
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
    ) -> Self:
        """The modes in another order, as `numpy.transpose`.

        Parameters
        ----------
        axes : sequence of d ints
            A permutation; mode k of the result is mode ``axes[k]`` of this tensor.
        eps : float, optional
            Relative Frobenius error that may be made on the way; by default the result is exact
            and ranks may grow.
        max_rank : int or sequence of int, optional
            Cap for all bonds, or one per bond, held on the way too; may break ``eps``.

        Raises
        ------
        TTValueError, TTTypeError
            If ``axes`` is no permutation.

        Notes
        -----
        Neighbouring modes are exchanged until all are in place, at O(n^3 r^3) an exchange. The full
        reversal costs nothing.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.ones((2, 3, 4)).permute((2, 0, 1)).shape
        (4, 2, 3)
        """
        share = check_eps(eps) / 2  # for the exchanges; the rest for the rounding
        order = reshaping.check_order(axes, self.ndim)
        caps = check_max_rank(max_rank, self.ndim)
        moved = self._made(*reshaping.permute(self._cores, order, share, caps))
        if eps is None and max_rank is None:
            return moved
        return moved.round(eps=share, max_rank=max_rank)

    def reshape(
        self,
        shape: int | Sequence[int],
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
    ) -> Self:
        """The same entries in C order under another shape, as `numpy.reshape`.

        Parameters
        ----------
        shape : int or sequence of int
            Of the same size; one entry may be -1.
        eps, max_rank
            Round the result, see `round`; by default it is exact.

        Raises
        ------
        TTShapeError, TTTypeError
            If the sizes differ.
        TTSizeError
            If modes would have to be merged to more than 2**27 numbers before they split anew.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.ones((4, 6)).reshape((2, -1, 3)).shape
        (2, 4, 3)
        """
        new = reshaping.check_shape(shape, self.size)
        changed = self._made(*reshaping.reshape(self._cores, new))
        if eps is None and max_rank is None:
            return changed
        return changed.round(eps=eps, max_rank=max_rank)
