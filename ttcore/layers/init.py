r"""Random cores for a layer: what is specified is the variance of the dense weight.

An entry of the dense matrix of independent cores of variances :math:`v_k` and mean 0 has the
variance :math:`\prod_k r_k \prod_k v_k`: a sum over all paths through the bonds.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ttcore.arrays import check_dtype
from ttcore.construct import check_ranks
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.layers.layouts import theano_cores
from ttcore.layers.modes import check_layer_modes
from ttcore.orthogonal import norm
from ttcore.scaling import log_of
from ttcore.typing import RNG, Cores

__all__ = ["init_cores"]

_Array = np.ndarray[Any, Any]
_Shapes = list[tuple[int, int, int, int]]

# variance of a standard normal number that was drawn until it lay within two standard deviations
_TRUNCATED = 0.7737413035


def init_cores(
    in_modes: int | Sequence[int],
    out_modes: int | Sequence[int],
    rank: int | Sequence[int],
    *,
    init: str | float = "glorot",
    rng: RNG = None,
    dtype: Any = float,
) -> Cores:
    r"""Random cores for the weight of a layer with N inputs and M outputs.

    Parameters
    ----------
    in_modes, out_modes : sequence of d ints
        They multiply to N and to M. (Layers take input modes first; matrices take rows, the
        outputs, first.)
    rank : int or sequence of int
        An int is clipped to what the modes can use; d - 1 or d + 1 numbers are taken as they are,
        also beyond that.
    init : str or float
        The variance of the entries of the dense weight, as a number or by its name:

        ==================== ===================================================================
        'glorot'             2 / (N + M)
        'he'                 2 / N
        'lecun'              1 / N
        'orthogonal'         that of Glorot, met exactly: cores are multiples of orthogonal ones
                             (of their left unfoldings), and their product has the norm that
                             this variance stands for. The dense matrix itself is not orthogonal
        'tensornet-tf'       TensorNet-TF: each core by Glorot's rule for the matrix
                             (m_k r_k, r_{k-1} n_k), truncated normal
        'tensornet-tf-2016'  its first release: truncated normal, before truncation of standard
                             deviation 2 / (r_{k-1} n_k)
        'tensornet-matlab'   TensorNet for MATLAB: orthogonal cores, dense norm 1
        'tensornet-theano'   TensorNet for Theano: vanishing, see Notes
        ==================== ===================================================================

    rng : seed or Generator
        As `numpy.random.default_rng` takes it.
    dtype : dtype
        float32, float64, complex64 or complex128.

    Returns
    -------
    tuple of d arrays (r_{k-1}, m_k, n_k, r_k)

    Raises
    ------
    TTShapeError, TTTypeError, TTValueError
        If modes or ranks do not fit together, or ``init`` is unknown or no variance.

    Notes
    -----
    The variance :math:`V` is split evenly: entries of every core are normal with variance
    :math:`(V / \prod_k r_k)^{1/d}`, as in t3f's ``glorot``, ``he`` and ``lecun`` initialisers.
    Entries of the dense matrix are not normal: their tails are heavier the smaller the ranks.

    The initialisers of the predecessors are restated to continue or to compare their experiments.
    The last two make dense weights of a variance far below Glorot's, so that a network without
    batch normalisation starts almost dead. That for Theano computes an orthogonal chain, scales
    it by :math:`0.1 / (N \prod_k r_k)^{1/d}` a core, and stores it in another order of axes than
    its layer reads; the result is what the layer reads.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010.
    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015.

    Examples
    --------
    >>> import ttcore as tt
    >>> cores = tt.layers.init_cores((4, 7, 4, 7), (5, 5, 8, 4), 3, rng=0)
    >>> [g.shape for g in cores]
    [(1, 5, 4, 3), (3, 5, 7, 3), (3, 8, 4, 3), (3, 4, 7, 1)]
    >>> dense = tt.TTMatrix(cores).to_dense()
    >>> bool(0.3 < dense.var() / (2 / (784 + 800)) < 3)
    True
    """
    ins, outs = check_layer_modes(in_modes, out_modes)
    found = check_dtype(dtype)
    pairs = [m * n for m, n in zip(outs, ins, strict=True)]
    ranks = check_ranks(rank, pairs)
    shapes = [
        (ranks[k], m, n, ranks[k + 1]) for k, (m, n) in enumerate(zip(outs, ins, strict=True))
    ]
    draw = _Draw(np.random.default_rng(rng), found.kind == "c")
    if isinstance(init, str) and init in _PREDECESSORS:
        if found.kind == "c":
            raise TTTypeError(f"init={init!r} is real, but dtype={found.name}; choose a real dtype")
        cores = _PREDECESSORS[init](shapes, draw)
    else:
        variance = _variance(init, math.prod(ins), math.prod(outs))
        make = _orthogonal if init == "orthogonal" else _even
        cores = make(shapes, draw, variance)
    return tuple(core.astype(found, copy=False) for core in cores)


def _variance(init: Any, inputs: int, outputs: int) -> float:
    named = {"glorot": 2 / (inputs + outputs), "he": 2 / inputs, "lecun": 1 / inputs}
    named["orthogonal"] = named["glorot"]
    if isinstance(init, str):
        if init not in named:
            known = ", ".join(map(repr, [*named, *_PREDECESSORS]))
            raise TTValueError(f"init={init!r} is unknown; choose {known}, or a variance")
        return named[init]
    if not isinstance(init, numbers.Real) or isinstance(init, bool):
        raise TTTypeError(f"init={init!r} is no name and no number: the variance of dense entries")
    variance = float(init)
    if not 0.0 < variance < math.inf:
        raise TTValueError(f"init={variance} must be finite and above 0: a variance")
    return variance


class _Draw:
    """Normal numbers of variance 1, real or complex."""

    def __init__(self, generator: np.random.Generator, is_complex: bool) -> None:
        self._generator = generator
        self._complex = is_complex

    def normal(self, shape: tuple[int, ...]) -> _Array:
        values: _Array = self._generator.standard_normal(shape)
        if self._complex:
            values = (values + 1j * self._generator.standard_normal(shape)) / math.sqrt(2.0)
        return values

    def truncated(self, shape: tuple[int, ...]) -> _Array:
        """Drawn again while beyond two standard deviations; the variance is then `_TRUNCATED`."""
        values = self.normal(shape)
        while (beyond := np.abs(values) > 2.0).any():
            values[beyond] = self.normal((int(beyond.sum()),))
        return values


def _even(shapes: _Shapes, draw: _Draw, variance: float) -> list[_Array]:
    logs = (math.log(variance) - sum(math.log(s[3]) for s in shapes)) / len(shapes)
    return [math.exp(logs / 2) * draw.normal(s) for s in shapes]


def _orthogonal(shapes: _Shapes, draw: _Draw, variance: float) -> list[_Array]:
    """The norm is made that of the variance, and spread evenly over the cores."""
    cores = [_isometry(draw.normal(s)) for s in shapes]
    flat = tuple(core.reshape(core.shape[0], -1, core.shape[3]) for core in cores)
    entries = sum(math.log(m * n) for _, m, n, _ in shapes)
    wanted = (math.log(variance) + entries) / 2
    factor = math.exp((wanted - log_of(*norm(flat))) / len(cores))
    return [factor * core for core in cores]


def _isometry(core: _Array) -> _Array:
    """Orthonormal columns of the left unfolding, or rows where it is wide."""
    rows = core.reshape(-1, core.shape[3])
    q = np.linalg.qr(rows)[0] if rows.shape[0] >= rows.shape[1] else np.linalg.qr(rows.T)[0].T
    return q.reshape(core.shape)


def _tensornet_tf(shapes: _Shapes, draw: _Draw) -> list[_Array]:
    scales = [math.sqrt(2 / (m * s + r * n) / _TRUNCATED) for r, m, n, s in shapes]
    return [a * draw.truncated(s) for a, s in zip(scales, shapes, strict=True)]


def _tensornet_tf_2016(shapes: _Shapes, draw: _Draw) -> list[_Array]:
    return [2.0 / (s[0] * s[2]) * draw.truncated(s) for s in shapes]


def _tensornet_matlab(shapes: _Shapes, draw: _Draw) -> list[_Array]:
    """Orthogonal in its order of the modes, which is the reverse of ours; the norm is 1."""
    turned = [(s, m, n, r) for r, m, n, s in reversed(shapes)]
    for shape in turned:
        _check_tall(shape, "tensornet-matlab")
    return [_isometry(draw.normal(s)).transpose(3, 1, 2, 0) for s in turned][::-1]


def _tensornet_theano(shapes: _Shapes, draw: _Draw) -> list[_Array]:
    stored, carry = [], np.ones((1, 1))
    for k, (r, m, n, s) in enumerate(shapes):
        rows = (carry @ draw.normal((r, n * m * s))).reshape(-1, s)
        if k < len(shapes) - 1:
            _check_tall((r, m, n, s), "tensornet-theano")
            rows, carry = np.linalg.qr(rows)
        stored.append(rows.ravel())
    ins, outs = [s[2] for s in shapes], [s[1] for s in shapes]
    ranks = [1, *(s[3] for s in shapes)]
    scale = 0.1 / (math.prod(ins) * math.prod(ranks)) ** (1 / len(shapes))
    return list(theano_cores(scale * np.concatenate(stored), ins, outs, ranks))


def _check_tall(shape: tuple[int, int, int, int], init: str) -> None:
    r, m, n, s = shape
    if r * m * n < s:
        raise TTShapeError(
            f"rank {s} beside modes {m} x {n} and rank {r} is more than orthogonal cores can have; "
            f"init={init!r} takes ranks up to {r * m * n} there"
        )


_PREDECESSORS: dict[str, Callable[[_Shapes, _Draw], list[_Array]]] = {
    "tensornet-tf": _tensornet_tf,
    "tensornet-tf-2016": _tensornet_tf_2016,
    "tensornet-matlab": _tensornet_matlab,
    "tensornet-theano": _tensornet_theano,
}
