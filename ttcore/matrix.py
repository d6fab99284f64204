"""TT-matrices."""

import math
import numbers
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ttcore import algebra, contraction, linear, parts, tuning
from ttcore import rows as rows_
from ttcore.arrays import as_array, check_dtype, check_same_library, dtype_name, namespace
from ttcore.cores import as_four_way, as_three_way, short
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.planner import Plan
from ttcore.prepared import PreparedMatrix
from ttcore.scalars import kind
from ttcore.scaling import ldexp
from ttcore.tensor import TTTensor
from ttcore.train import Train
from ttcore.typing import Array, Cores

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class TTMatrix(Train):
    r"""Matrix of M rows and N columns in the tensor-train format.

    .. math:: W[i, j] = G_1[:, i_1, j_1, :]\, G_2[:, i_2, j_2, :] \cdots G_d[:, i_d, j_d, :]

    with i and j flattened in C order, mode 1 most significant.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
        m: row (output) mode, n: column (input) mode; r_0 = r_d = 1. dtypes and libraries as for
        `TTTensor`.

    Raises
    ------
    TTShapeError, TTTypeError
        If the cores do not fit together.

    Notes
    -----
    Immutable. ``W @ x`` takes a dense vector (N,), columns (N, B), a TT-tensor of shape
    ``col_modes`` or a TT-matrix; ``x @ W`` a
    dense vector (M,) or rows (B, M). `apply` takes rows (B, N), as a layer does.

    References
    ----------
    .. [1] I. V. Oseledets, "Approximation of 2^d x 2^d matrices using tensor decomposition", SIAM
       J. Matrix Anal. Appl. 31(4),
       2130-2145, 2010.
    .. [2] A. Novikov, D. Podoprikhin, A. Osokin, D. Vetrov, "Tensorizing Neural Networks", NIPS
       2015, arXiv:1509.06569.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> W = 2 * tt.eye((2, 3))
    >>> W @ np.arange(6.0)
    array([ 0.,  2.,  4.,  6.,  8., 10.])
    """

    __slots__ = ()
    _core_ndim = 4
    _from_dense = "matrix_from_dense"

    @property
    def _flat(self) -> Cores:
        return as_three_way(self._cores)

    def _like(self, flat: Cores, center: int | None = None) -> Self:
        return self._made(as_four_way(flat, self.row_modes, self.col_modes), center)

    @property
    def row_modes(self) -> tuple[int, ...]:
        """Row (output) mode of each core."""
        return linear.row_modes(self._cores)

    @property
    def col_modes(self) -> tuple[int, ...]:
        """Column (input) mode of each core."""
        return linear.col_modes(self._cores)

    @property
    def shape(self) -> tuple[int, int]:
        """``(M, N)``."""
        return math.prod(self.row_modes), math.prod(self.col_modes)

    @property
    def _modes(self) -> tuple[Any, ...]:
        return self.row_modes, self.col_modes

    def _describe_modes(self) -> str:
        return f"row_modes={short(self.row_modes)}, col_modes={short(self.col_modes)}"

    def _expanded(self) -> Array:
        xp = namespace(*self._cores)
        pairs, order = linear.pairing(self.row_modes, self.col_modes)
        tensor = xp.reshape(contraction.expand(self._flat), pairs)
        return xp.reshape(xp.permute_dims(tensor, order), self.shape)

    @property
    def T(self) -> "TTMatrix":
        """The transpose."""
        return self._made(linear.transposed(self._cores), self._center)

    @property
    def H(self) -> "TTMatrix":
        """The conjugate transpose."""
        return self._made(linear.adjoint_cores(self._cores), self._center)

    # parts

    def __getitem__(self, key: Any) -> "float | complex | TTTensor":
        """``W[i, j]``: a Python number; ``W[i, :]`` and ``W[:, j]``: a TTTensor; flat ints i, j.

        Raises
        ------
        TTIndexError
            For any other key, or an index out of range.
        """
        found = parts.select(self._cores, key)
        if len(found) == 2 and isinstance(found[1], int):
            return ldexp(algebra.scalar(found[0]), found[1])  # type: ignore[no-any-return]
        return TTTensor._made(found)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __iter__(self) -> "Iterator[TTTensor]":
        """The rows."""
        return (TTTensor._made(parts.select(self._cores, i)) for i in range(len(self)))

    def gather_rows(self, rows: Any, *, workers: int | None = None) -> Array:
        """Rows ``W[rows[b], :]``, dense: what an embedding looks up.

        Parameters
        ----------
        rows : (batch,) array of ints
            Flat indices; negative ones count from the end, batch may be 0.
        workers : int, optional
            Threads of the compiled kernels, as in `linear.matvec`.

        Returns
        -------
        (batch, N) array

        Raises
        ------
        TTShapeError, TTIndexError
            If ``rows`` has another shape or dtype, or an index is out of bounds.

        Notes
        -----
        Repeated rows are computed once. Gradients: `ttcore.rows.gather_rows_backward`.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.eye((2, 2)).gather_rows([2, -1])
        array([[0., 0., 1., 0.],
               [0., 0., 0., 1.]])
        """
        return rows_.gather_rows(self._cores, rows, workers=workers)

    def gather_columns(self, columns: Any, *, workers: int | None = None) -> Array:
        """Columns ``W[:, columns[b]]``, dense, each as a row of the result (batch, M).

        Parameters and errors are those of `gather_rows`.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.eye((2, 2)).gather_columns([1])
        array([[0., 1., 0., 0.]])
        """
        return rows_.gather_columns(self._cores, columns, workers=workers)

    def diagonal(self) -> TTTensor:
        """The main diagonal, a tensor of shape ``row_modes``.

        Raises
        ------
        TTShapeError
            Unless row and column modes are equal.
        """
        return TTTensor._made(parts.diagonal(self._cores))

    def trace(self) -> float | complex:
        """Sum of the main diagonal.

        Raises
        ------
        TTShapeError
            Unless row and column modes are equal.
        """
        value, exponent = parts.trace(self._cores)
        return ldexp(algebra.scalar(value), exponent)  # type: ignore[no-any-return]

    def sum(self, axis: int | None = None) -> "float | complex | TTTensor":
        """Sum over the rows (axis 0) or the columns (axis 1), a TTTensor; over both, a number.

        Raises
        ------
        TTIndexError, TTTypeError
            If there is no such axis.

        Examples
        --------
        >>> import ttcore as tt
        >>> tt.eye((2, 3)).sum(axis=1).shape, tt.eye((2, 3)).sum()
        ((2, 3), 6.0)
        """
        axes = contraction.check_axes(axis, 2)
        if len(axes) == 2:
            return TTTensor._made(parts.sums(self._cores, 0)).sum()
        return TTTensor._made(parts.sums(self._cores, axes[0]))

    # products

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, TTMatrix):
            check_same_library((self._cores[0], other._cores[0]), "the two trains")
            return self._made(linear.compose(self._cores, other._cores))
        if isinstance(other, TTTensor):
            return self._times_tensor(other)
        x = self._operand(other, "W @ x", "a vector (N,), columns (N, B), a TTTensor or a TTMatrix")
        linear.check_length(x, 0, self.col_modes, "col_modes", "(N,) or (N, B)")
        xp = namespace(x)
        if x.ndim == 1:
            return xp.reshape(
                linear.times_rows(self._cores, xp.reshape(x, (1, x.shape[0]))), (self.shape[0],)
            )
        if x.ndim != 2:
            raise TTShapeError(f"x has shape {tuple(x.shape)}, expected (N,) or columns (N, B)")
        return linear.times_columns(self._cores, x)

    def _times_tensor(self, x: TTTensor) -> TTTensor:
        check_same_library((self._cores[0], x.cores[0]), "the two trains")
        xp = namespace(*x.cores)
        columns = tuple(xp.reshape(g, (g.shape[0], g.shape[1], 1, g.shape[2])) for g in x.cores)
        return TTTensor._made(as_three_way(linear.compose(self._cores, columns)))

    def __rmatmul__(self, other: Any) -> Any:
        x = self._operand(other, "x @ W", "a vector (M,) or rows (B, M)")
        if x.ndim not in {1, 2}:
            raise TTShapeError(
                f"x has shape {tuple(x.shape)}, expected (M,) or (B, M) with M = {self.shape[0]}"
            )
        linear.check_length(x, -1, self.row_modes, "row_modes", "(M,) or (B, M)")
        return self.T.apply(x)

    def apply(self, x: Any, *, workers: int | None = None) -> Array:
        """``x @ W.T``: rows (B, N) -> (B, M), as a layer sees them.

        Leading axes (..., N) -> (..., M) too.

        Parameters
        ----------
        x : (..., N) array
        workers : int, optional
            Threads, as in `linear.matvec`.

        Raises
        ------
        TTShapeError, TTTypeError
            If the last axis is not N long.

        Examples
        --------
        >>> import numpy as np
        >>> import ttcore as tt
        >>> tt.eye((2, 2)).apply(np.ones((3, 4))).shape
        (3, 4)
        """
        x = self._operand(x, "W.apply(x)", "rows (B, N)")
        if x.ndim == 2:
            return linear.times_rows(self._cores, x, workers)
        linear.check_length(x, -1, self.col_modes, "col_modes", "(B, N)")
        xp = namespace(x)
        rows = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        y = linear.times_rows(self._cores, rows, workers)
        return xp.reshape(y, (*x.shape[:-1], y.shape[1]))

    def matvec(self, x: Any) -> Any:
        """``W @ x``."""
        return self @ x

    def rmatvec(self, y: Any) -> Any:
        """``W.H @ y``."""
        return self.H @ y

    def to_linear_operator(self) -> "LinearOperator":
        """The matrix as a `scipy.sparse.linalg.LinearOperator`, for SciPy's solvers.

        Examples
        --------
        >>> import numpy as np
        >>> import scipy.sparse.linalg
        >>> import ttcore as tt
        >>> A = (2 * tt.eye((3, 4))).to_linear_operator()
        >>> x, code = scipy.sparse.linalg.cg(A, np.ones(12))
        >>> bool(np.allclose(x, 0.5)), code
        (True, 0)
        """
        from scipy.sparse.linalg import LinearOperator

        adjoint = self.H
        return LinearOperator(
            dtype=self.dtype,
            shape=self.shape,
            matvec=self.matvec,
            rmatvec=adjoint.matvec,
            matmat=self.matvec,
            rmatmat=adjoint.matvec,
        )

    def prepare(self, *, batch: int = 1, max_bytes: int = 2**28) -> PreparedMatrix:
        """The matrix made ready for many products with batches like this one.

        Neighbouring cores stay merged, as far as ``max_bytes`` for one supercore allow; where the
        dense matrix is the quickest and fits, that is kept.

        Parameters
        ----------
        batch : int
            Number of rows that the order of contraction is chosen for; others are taken too.
        max_bytes : int

        Returns
        -------
        PreparedMatrix
            With ``apply``.

        Examples
        --------
        >>> import numpy as np
        >>> import ttcore as tt
        >>> P = tt.eye((2, 3)).prepare()
        >>> P.apply(np.arange(6.0)), P.nbytes
        (array([0., 1., 2., 3., 4., 5.]), 288)
        """
        return PreparedMatrix(self._cores, _checked_batch(batch), int(max_bytes))

    def plan(self, *, batch: int = 1, dtype: Any = None, tune: bool = False) -> Plan:
        """How ``apply`` contracts a batch of this size; print it.

        Parameters
        ----------
        batch : int
            Number of rows. The order of contraction depends on it rounded up to a power of two.
        dtype : dtype, optional
            Of the computation; default: that of the cores.
        tune : bool
            Measure the most promising orders on this machine, about a second, and use the fastest
            from now on: in this process, for matrices of the same modes, ranks and dtype and
            batches of the same class. `save_plan` and `load_plan` keep it.

        Examples
        --------
        >>> import ttcore as tt
        >>> W = tt.random_matrix((4, 4), (4, 7), 3, rng=0)
        >>> W.plan(batch=100).dense_flops
        89600
        """
        batch = _checked_batch(batch)
        name = dtype_name(self.dtype) if dtype is None else check_dtype(dtype).name
        if tune:
            return tuning.tune(algebra.cast(self._cores, name), batch)
        return linear.plan_for(self._cores, batch, name)

    def _operand(self, x: Any, what: str, expected: str) -> Array:
        if isinstance(x, numbers.Number):
            raise TTTypeError(
                f"{what}: x is {kind(x)}, expected {expected}; multiply by a number with *"
            )
        if isinstance(x, Train):
            raise TTTypeError(f"{what}: x is {kind(x)}, expected {expected}")
        return as_array(x, "x")


def _checked_batch(batch: Any) -> int:
    if not isinstance(batch, int | np.integer) or isinstance(batch, bool) or batch < 0:
        raise TTValueError(f"batch={batch!r} must be an int >= 0: the number of rows")
    return int(batch)
