"""Layers from the arrays that the predecessors of this library store.

Exact: the layer computes what the original computes, up to rounding. What is stored is described
beside each function in `ttcore.layers.layouts`, from the sources of the programs.
"""

from collections.abc import Sequence
from typing import Any

from ttcore.arrays import as_array, namespace
from ttcore.layers import layouts
from ttcore.layers.layer import FC

__all__ = [
    "from_t3f",
    "from_tensornet_matlab",
    "from_tensornet_tf",
    "from_tensornet_tf_2016",
    "from_tensornet_theano",
]


def from_tensornet_tf(
    cores: Sequence[Any],
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    *,
    bias: Any = None,
) -> FC:
    """A layer of TensorNet-TF (``tensornet.layers.tt``).

    Parameters
    ----------
    cores : sequence of d arrays (out_k r_k, r_{k-1} in_k)
        The variables ``mat_core_1`` ... ``mat_core_d``.
    in_modes, out_modes : sequence of d ints
        As that layer was given them.
    bias : (M,) array, optional
        The variable ``biases``.

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit the modes.

    See Also
    --------
    from_tensornet_tf_2016 : Its first release, with one vector of weights.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> stored = [np.ones((3 * 5, 2)), np.ones((4, 5 * 2))]  # rank 5
    >>> tt.layers.from_tensornet_tf(stored, (2, 2), (3, 4)).forward(np.ones(4))[:2]
    array([20., 20.])
    """
    return FC(layouts.tensornet_tf_cores(cores, in_modes, out_modes), bias)


def from_tensornet_tf_2016(
    weights: Any,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    ranks: Sequence[int],
    *,
    bias: Any = None,
) -> FC:
    """A layer of the first release of TensorNet-TF (2016), or what its ``matrix_svd`` returns.

    Parameters
    ----------
    weights : vector
        The variable ``weights``; a network of today has ``mat_core_1`` instead. Of ``matrix_svd``
        the result for a matrix (in, out), the in modes being those of its left side.
    in_modes, out_modes : sequence of d ints
    ranks : sequence of d + 1 ints, or the d - 1 inner ones
    bias : (M,) array, optional

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit modes and ranks.
    """
    return FC(layouts.tensornet_tf_2016_cores(weights, in_modes, out_modes, ranks), bias)


def from_tensornet_theano(
    cores_arr: Any,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    ranks: Sequence[int],
    *,
    bias: Any = None,
) -> FC:
    """The linear part of a ``TTLayer`` of TensorNet for Theano and Lasagne.

    Parameters
    ----------
    cores_arr : vector
        The parameter ``cores_arr``; the last core comes first in it.
    in_modes, out_modes, ranks : sequence of ints
        ``tt_input_shape``, ``tt_output_shape`` and ``tt_ranks``.
    bias : (M,) array, optional
        The parameter ``b``.

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit modes and ranks.

    Notes
    -----
    The activation, by default ReLU, is part of that layer and is not part of this one.
    """
    return FC(layouts.theano_cores(cores_arr, in_modes, out_modes, ranks), bias)


def from_tensornet_matlab(
    core: Any,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    ranks: Sequence[int],
    *,
    bias: Any = None,
) -> FC:
    """A layer of TensorNet for MATLAB (``vl_nntt_forward``), or a tt_matrix of TT-Toolbox or ttpy.

    Parameters
    ----------
    core : vector, or column (·, 1)
        All cores: ``weights{1}`` of the layer. (Its ``W.core`` still holds the initial values.)
    in_modes, out_modes, ranks : sequence of ints
        ``W.m``, ``W.n`` and ``W.r``, in the order stored there.
    bias : array of M numbers, optional
        ``weights{2}``, of shape 1 x 1 x M, or any other; empty for none.

    Returns
    -------
    FC
        Its modes and ranks are in the reversed order: there mode 1 is the least significant.

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit modes and ranks.

    Notes
    -----
    Vectors are the same as there: of an image H x W x C the H index is the fastest. An ordinary
    batch (B, C, H, W) becomes rows by ``x.transpose(0, 1, 3, 2).reshape(B, -1)``.
    """
    cores = layouts.matlab_cores(core, in_modes, out_modes, ranks)
    if bias is not None:
        bias = as_array(bias, "bias")
        bias = namespace(bias).reshape(bias, (-1,)) if 0 not in bias.shape else None
    return FC(cores, bias)


def from_t3f(cores: Sequence[Any], *, bias: Any = None) -> FC:
    """A ``KerasDense`` layer of t3f.

    Parameters
    ----------
    cores : sequence of d arrays (r_{k-1}, in_k, out_k, r_k)
        Its variables ``core_0`` ... ``core_{d-1}``. (Another TT-matrix of t3f has the layout of
        `TTMatrix` as it is.)
    bias : (M,) array, optional

    Raises
    ------
    TTShapeError, TTTypeError
        If the arrays do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> tt.layers.from_t3f([np.ones((1, 2, 3, 5)), np.ones((5, 2, 4, 1))]).out_modes
    (3, 4)
    """
    return FC(layouts.t3f_dense_cores(cores), bias)
