"""The fully-connected layer as an object: cores and a bias, and what can be done with them."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from ttcore.arrays import as_array, check_same_library, default_device_like, dtype_name, namespace
from ttcore.cores import as_four_way, as_three_way, check_cores, ranks_of, read_only, short
from ttcore.errors import TTShapeError, TTTypeError
from ttcore.factorise import auto_matrix_modes
from ttcore.layers import fc
from ttcore.layers.clipping import clipped
from ttcore.layers.init import init_cores
from ttcore.layers.modes import check_layer_modes, check_size
from ttcore.linear import check_length, col_modes, order_for, plan_for, row_modes
from ttcore.making import matrix_from_dense
from ttcore.matrix import TTMatrix
from ttcore.planner import Plan, entry_bytes
from ttcore.typing import RNG, Array, Cores

__all__ = ["FC"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FC:
    """A fully-connected layer ``y = W x + b`` whose weight W is a TT-matrix.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, m_k, n_k, r_k)
        m: output mode, n: input mode; r_0 = r_d = 1. Ranks may be above what the modes can use.
        Half precision becomes float32.
    bias : (out_features,) array, optional
    in_features, out_features : int, optional
        Sizes of input and output where the modes multiply to more: x is then padded with zeros,
        and y is cut.

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit together.

    Notes
    -----
    Immutable, and the arrays are not written to: a step of training makes a new layer. For
    frameworks there are adapters; for arrays without an object `ttcore.layers.fc`.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> layer = tt.layers.FC.random((4, 7, 4, 7), (5, 5, 8, 4), 3, rng=0)
    >>> layer
    FC(in_modes=(4, 7, 4, 7), out_modes=(5, 5, 8, 4), ranks=(1, 3, 3, 3, 1), bias=True,
       dtype=float64, 1547 parameters)
    >>> layer.forward(np.ones((10, 784))).shape
    (10, 800)
    """

    cores: Cores
    bias: Array | None = None
    _: KW_ONLY
    in_features: int | None = None
    out_features: int | None = None

    def __post_init__(self) -> None:
        cores = read_only(check_cores(self.cores, 4))
        object.__setattr__(self, "cores", cores)
        for name, modes in (("in_features", self.in_modes), ("out_features", self.out_modes)):
            object.__setattr__(self, name, check_size(name, getattr(self, name), modes))
        if self.bias is not None:
            bias = fc.check_bias(self.bias, self._sizes[1])
            check_same_library((cores[0], bias), "the cores and the bias")
            object.__setattr__(self, "bias", read_only((bias,))[0])

    # making

    @classmethod
    def random(
        cls,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        rank: int | Sequence[int],
        *,
        bias: bool = True,
        init: str | float = "glorot",
        rng: RNG = None,
        dtype: Any = float,
    ) -> "FC":
        """A new layer: cores by `init_cores`, and a bias of zeros."""
        cores = init_cores(in_modes, out_modes, rank, init=init, rng=rng, dtype=dtype)
        zeros = np.zeros(math.prod(row_modes(cores)), cores[0].dtype) if bias else None
        return cls(cores, zeros)

    @classmethod
    def from_dense(
        cls,
        weight: Any,
        in_modes: Sequence[int] | None = None,
        out_modes: Sequence[int] | None = None,
        *,
        bias: Any = None,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        pad: bool = False,
    ) -> "FC":
        """The layer of a trained weight, by TT-SVD.

        Parameters
        ----------
        weight : (out_features, in_features) array
            As torch stores it; Keras' kernels are its transpose.
        in_modes, out_modes : sequence of d ints, optional
            They multiply to the sizes of the weight; default: `auto_matrix_modes`.
        bias : (out_features,) array, optional
        eps, max_rank
            As in `matrix_from_dense`.
        pad : bool
            Whether modes may multiply to more than the sizes: the weight is then padded with zeros,
            which changes no singular value.

        Raises
        ------
        TTShapeError, TTTypeError, TTValueError
            If weight, modes and bias do not fit together.

        See Also
        --------
        suggest : Modes and ranks for a goal.

        Examples
        --------
        >>> import numpy as np
        >>> import ttcore as tt
        >>> weight = np.kron(np.ones((2, 3)), np.arange(16.0).reshape(4, 4))
        >>> tt.layers.FC.from_dense(weight, (3, 4), (2, 4)).ranks
        (1, 1, 1)
        """
        weight = as_array(weight, "weight")
        if weight.ndim != 2:
            raise TTShapeError(
                f"weight has shape {tuple(weight.shape)}, expected (out_features, in_features)"
            )
        outputs, inputs = (int(size) for size in weight.shape)
        if (in_modes is None) != (out_modes is None):
            raise TTTypeError("in_modes and out_modes: give both, or neither")
        if in_modes is None or out_modes is None:
            out_modes, in_modes = auto_matrix_modes(outputs, inputs)
        ins, outs = check_layer_modes(in_modes, out_modes)
        if pad:
            weight = _padded(_padded(weight, 0, math.prod(outs)), 1, math.prod(ins))
        matrix = matrix_from_dense(weight, outs, ins, eps=eps, max_rank=max_rank)
        return cls(matrix.cores, bias, in_features=inputs, out_features=outputs)

    # being

    @property
    def in_modes(self) -> tuple[int, ...]:
        """Input mode of each core."""
        return col_modes(self.cores)

    @property
    def out_modes(self) -> tuple[int, ...]:
        """Output mode of each core."""
        return row_modes(self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The d + 1 ranks; the outer ones are 1."""
        return ranks_of(self.cores)

    @property
    def dtype(self) -> Any:
        """dtype of the cores."""
        return self.cores[0].dtype

    @property
    def num_params(self) -> int:
        """Number of entries of the cores and the bias."""
        return sum(math.prod(map(int, a.shape)) for a in self._arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of the cores and the bias."""
        arrays = self._arrays
        return sum(math.prod(map(int, a.shape)) * entry_bytes(dtype_name(a.dtype)) for a in arrays)

    @property
    def matrix(self) -> TTMatrix:
        """The weight, padding included, as a TT-matrix."""
        return TTMatrix(self.cores)

    def to_dense(self, *, max_bytes: int = 2**33) -> Array:
        """The weight (out_features, in_features); ``max_bytes`` as in `TTMatrix.to_dense`."""
        inputs, outputs = self._sizes
        return self.matrix.to_dense(max_bytes=max_bytes)[:outputs, :inputs]

    def __repr__(self) -> str:
        """Modes, ranks, dtype and number of parameters."""
        inputs, outputs = self._sizes
        padded = (math.prod(self.in_modes), math.prod(self.out_modes)) != (inputs, outputs)
        sizes = f"in_features={inputs}, out_features={outputs}, " if padded else ""
        return (
            f"FC(in_modes={short(self.in_modes)}, out_modes={short(self.out_modes)}, "
            f"ranks={short(self.ranks)}, {sizes}bias={self.bias is not None},\n"
            f"   dtype={dtype_name(self.dtype)}, {self.num_params} parameters)"
        )

    # computing

    def forward(self, x: Any, *, workers: int | None = None) -> Array:
        """``W x + b`` for each vector of ``x`` (..., in_features): (..., out_features).

        Raises
        ------
        TTShapeError, TTTypeError
            If the last axis has another length.
        """
        outputs, size = self._sizes[1], math.prod(self.out_modes)
        bias = self.bias if self.bias is None else _padded(self.bias, 0, size)
        y = fc.forward(self.cores, self._padded_input(x), bias, workers=workers)
        return y if outputs == size else y[..., :outputs]

    __call__ = forward

    def backward(
        self, x: Any, gy: Any, *, workers: int | None = None
    ) -> tuple[Array, Cores, Array | None]:
        """Gradients for x, the cores and the bias, given that for ``y = forward(x)``.

        As `ttcore.layers.fc.backward`.

        Raises
        ------
        TTShapeError, TTTypeError
            If the shapes do not fit together.
        """
        inputs, outputs = self._sizes
        size = math.prod(self.out_modes)
        if outputs != size:
            gy = _as_is(gy, "gy")
            check_length(gy, -1, (outputs,), "row_modes", "(..., out_features)")
            gy = _padded(gy, -1, size)
        bias = self.bias if self.bias is None else _padded(self.bias, 0, size)
        padded = self._padded_input(x)
        gx, gcores, gbias = fc.backward(self.cores, padded, gy, bias, workers=workers)
        return gx[..., :inputs], gcores, None if gbias is None else gbias[:outputs]

    # changing

    def round(
        self,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        method: str = "svd",
        rng: RNG = None,
    ) -> "FC":
        """The layer with smaller ranks, close to this one in the norm of the weight.

        Options as for `TTMatrix.round`. The bias stays.

        Examples
        --------
        >>> import ttcore as tt
        >>> layer = tt.layers.FC.random((4, 4, 4), (4, 4, 4), 8, rng=0)
        >>> layer.round(max_rank=4).ranks
        (1, 4, 4, 1)
        """
        return self._with(
            self.matrix.round(eps=eps, max_rank=max_rank, method=method, rng=rng).cores
        )

    def clip(self) -> "FC":
        """The same layer without ranks above what the modes can use; exact, not truncated.

        Cores beside other bonds stay as they are.

        Examples
        --------
        >>> import ttcore as tt
        >>> layer = tt.layers.FC.random((4, 8, 4), (2, 2, 2), (20, 40), rng=0)
        >>> layer.clip().ranks
        (1, 8, 8, 1)
        """
        flat = clipped(as_three_way(self.cores))
        return self._with(as_four_way(flat, self.out_modes, self.in_modes))

    # counting

    def plan(self, *, batch: int = 1) -> Plan:
        """How ``forward`` contracts a batch of this size; print it."""
        return plan_for(self.cores, batch, dtype_name(self.dtype))

    def flops(self, *, batch: int = 1) -> int:
        """Floating-point operations of the product in ``forward``, a multiply-add counted as two.

        Examples
        --------
        >>> import ttcore as tt
        >>> layer = tt.layers.FC.random((4, 4), (4, 4), 2, rng=0)
        >>> layer.flops(batch=100) <= 2 * 100 * 16 * 16  # at most those of the dense product
        True
        """
        return self.plan(batch=batch).flops

    def bytes(self, *, batch: int = 1) -> int:
        """Bytes read and written by the product in ``forward``."""
        return self.plan(batch=batch).bytes

    def predicted_time(self, *, batch: int = 1, gradients: bool = False) -> float:
        """Seconds that the planner expects of ``forward``, or of ``backward``, on one core.

        A model of one AVX-512 core: meant for comparing layers.
        """
        if gradients:
            return order_for(self.cores, batch, "gradients").seconds
        return self.plan(batch=batch).seconds

    @property
    def _sizes(self) -> tuple[int, int]:
        """Features in and out."""
        assert self.in_features is not None  # set in __post_init__
        assert self.out_features is not None
        return self.in_features, self.out_features

    @property
    def _arrays(self) -> tuple[Array, ...]:
        return self.cores if self.bias is None else (*self.cores, self.bias)

    def _with(self, cores: Cores) -> "FC":
        inputs, outputs = self._sizes
        return FC(cores, self.bias, in_features=inputs, out_features=outputs)

    def _padded_input(self, x: Any) -> Any:
        inputs, size = self._sizes[0], math.prod(self.in_modes)
        if inputs == size:
            return x
        x = _as_is(x, "x")
        check_length(x, -1, (inputs,), "col_modes", "(..., in_features)")
        return _padded(x, -1, size)


def _as_is(x: Any, name: str) -> Array:
    """An array, in half precision if it came so."""
    return x if hasattr(x, "dtype") and hasattr(x, "ndim") else as_array(x, name)


def _padded(x: Array, axis: int, size: int) -> Array:
    """``x`` with zeros at the end of an axis, to this size; as it is if it is as long already."""
    missing = size - int(x.shape[axis])
    if missing <= 0:
        return x
    shape = list(x.shape)
    shape[axis] = missing
    xp = namespace(x)
    zeros = xp.zeros(tuple(shape), dtype=x.dtype, **default_device_like(x))
    return xp.concat((x, zeros), axis=axis)
