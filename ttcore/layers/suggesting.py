r"""Modes and ranks for a layer: for an error, a number of parameters, or a time.

For each number of cores the modes are near-equal, padded where a size has no good factors. Where
the weight is known, the singular values of its unfoldings tell what each rank costs in accuracy:
cutting bond k down to rank r discards the tail :math:`t_k(r)`, and TT-SVD makes an error of at most
:math:`\sqrt{\sum_k t_k(r_k)^2}`, at least the largest :math:`t_k(r_k)`. For a goal that is not an
error, ranks are grown from 1 by taking the largest singular values first, whichever bond they
belong to; where no weight is known, all ranks grow together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ttcore import plotting
from ttcore.arrays import check_dtype, dtype_name, host
from ttcore.cores import check_modes, short
from ttcore.errors import TTShapeError, TTTypeError, TTValueError
from ttcore.factorisations import check_finite
from ttcore.layers.layer import FC
from ttcore.layers.modes import mode_choices, oddness
from ttcore.layers.spectra import SEEN, Spectra, error_bound, levels, unfolding_spectra
from ttcore.planner import Plan, plan
from ttcore.truncation import check_eps, choose_rank, per_bond

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Candidate", "Suggestion", "suggest"]

_Ranks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Modes and ranks for a layer, and what they cost.

    Attributes
    ----------
    in_modes, out_modes, ranks : tuple of int
        The modes may multiply to a little more than the sizes of the layer.
    num_params : int
        Of the cores.
    flops : int
        Of ``forward`` for the whole batch.
    seconds : float
        Predicted for it on one core.
    error : float or None
        Bound on the relative error of TT-SVD with these ranks; None without a weight.
    spectra : tuple of arrays
        Singular values of the unfolding at each bond, relative to the norm; empty without a weight.
    """

    in_modes: _Ranks
    out_modes: _Ranks
    ranks: _Ranks
    num_params: int
    flops: int
    seconds: float
    error: float | None = None
    spectra: Spectra = field(default=(), repr=False)

    def errors(self) -> dict[int, float]:
        """For each rank 1, 2, 4, ...: bound on the error where all ranks are capped at it.

        Empty without a weight.
        """
        most = max(map(len, self.spectra), default=0)
        ranks = [2**k for k in range(most.bit_length() + (most & (most - 1) > 0))] if most else []
        return {rank: error_bound(self.spectra, [rank] * len(self.spectra)) for rank in ranks}

    def plot_spectra(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the singular values of each bond, as `TTMatrix.plot_spectra` does.

        Raises
        ------
        TTValueError
            Without a weight.
        """
        if self.error is None:
            raise TTValueError("no weight was given, so there are no spectra; suggest(weight, …)")
        return plotting.plot_spectra(self.spectra, ax)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What `suggest` returns; print it.

    Attributes
    ----------
    shape : (out, in)
    goal : str
        As it was asked for: 'eps=0.01'.
    batch : int
    dtype : str
    candidates : tuple of Candidate
        The best first.
    """

    shape: tuple[int, int]
    goal: str
    batch: int
    dtype: str
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate:
        """The first candidate."""
        return self.candidates[0]

    def layer(self, weight: Any, *, bias: Any = None) -> FC:
        """The layer of a trained weight (out, in) with modes and ranks of the best candidate.

        Raises
        ------
        TTShapeError, TTTypeError, TTValueError
            If the weight has not the shape asked about, or the bias does not fit it.
        """
        shape = tuple(np.shape(weight))
        if shape != self.shape:
            raise TTShapeError(f"weight has shape {shape}, but this suggestion is for {self.shape}")
        found = self.best
        caps = found.ranks[1:-1]
        return FC.from_dense(
            weight, found.in_modes, found.out_modes, bias=bias, max_rank=caps, pad=True
        )

    def __str__(self) -> str:
        """A table of the candidates; with a weight, one of the error per rank too."""
        outputs, inputs = self.shape
        lines = [
            f"{inputs} inputs, {outputs} outputs, {self.goal}; batch {self.batch}, {self.dtype}; "
            f"dense {inputs * outputs} parameters",
        ]
        head = ("in_modes", "out_modes", "ranks", "params", "flop", "ms", "error")
        rows = [head, *map(_row, self.candidates)]
        lines += _table(rows if self.best.error is not None else [row[:-1] for row in rows])
        if self.best.error is not None:
            every = [c.errors() for c in self.candidates]
            ranks = sorted({rank for errors in every for rank in errors})
            lines += ["", "error with all ranks capped at"]
            head_ = ("", *map(str, ranks))
            body = [
                (f"{len(c.in_modes)} cores", *(_short_error(e.get(r)) for r in ranks))
                for c, e in zip(self.candidates, every, strict=True)
            ]
            lines += _table([head_, *body])
        return "\n".join(lines)


def suggest(
    shape_or_weight: Any,
    *,
    eps: float | None = None,
    params: int | None = None,
    latency: float | None = None,
    batch: int = 1,
    dtype: Any = None,
) -> Suggestion:
    """Modes and ranks for a layer that meets a goal, for several numbers of cores.

    Parameters
    ----------
    shape_or_weight : (out, in), or array (out, in)
        The sizes, or a trained weight as torch stores it.
    eps, params, latency : optional
        The goal, exactly one of them. The relative error of the weight, at most, with the fewest
        parameters; needs the weight. The parameters of the cores, at most, or the seconds that the
        planner predicts for ``forward`` on one core, at most; with the smallest error where the
        weight is known, with the largest equal ranks otherwise.
    batch : int
        Number of vectors, for flops and seconds.
    dtype : dtype, optional
        Of the computation; default: that of the weight, float32 otherwise.

    Returns
    -------
    Suggestion
        Its candidates are sorted by parameters (eps), by error (with a weight), or otherwise by
        how near their modes are to 4 to 8, which the TensorNet papers found best.

    Raises
    ------
    TTValueError, TTTypeError, TTShapeError
        If not exactly one goal is given, none of the candidates meets it, or the weight is no
        matrix of finite numbers.

    Notes
    -----
    With a weight, the unfoldings of the dense matrix are formed one after the other, in float64,
    and the eigenvalues of their Gram matrices found: errors below 1e-7 cannot be told, and are
    refused as a goal. Cost for sizes M, N about (M N)^(3/2) multiply-adds for each unfolding that
    is nearly square.

    Examples
    --------
    >>> import numpy as np
    >>> import ttcore as tt
    >>> print(tt.layers.suggest((4096, 25088), params=2016))
    25088 inputs, 4096 outputs, params=2016; batch 1, float32; dense 102760448 parameters
    ...
    >>> i = np.arange(64.0)
    >>> found = tt.layers.suggest(1 / (1 + np.add.outer(i, i)), eps=1e-3)
    >>> found.best.error <= 1e-3
    True
    """
    weight, shape = _weight_or_shape(shape_or_weight)
    goals = {"eps": eps, "params": params, "latency": latency}
    chosen = [name for name, value in goals.items() if value is not None]
    if len(chosen) != 1:
        raise TTValueError(
            f"got {' and '.join(chosen) if chosen else 'no goal'}; give exactly one of eps, params "
            "and latency"
        )
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise TTValueError(f"batch={batch!r} must be an int >= 1: the number of vectors")
    given = "float32" if weight is None else dtype_name(weight.dtype)
    name = given if dtype is None else check_dtype(dtype).name
    search = _Search(weight, shape, int(batch), name)
    if eps is not None:
        if weight is None:
            raise TTValueError(
                "eps is an error of the weight, and only its shape was given; give the weight, or "
                "params or latency"
            )
        if check_eps(eps) < SEEN:
            raise TTValueError(
                f"eps={eps} is below {SEEN}, what the Gram matrices of the unfoldings show; "
                "FC.from_dense(weight, eps=…) has no such limit"
            )
        found = search.by_error(float(eps))
    elif params is not None:
        found = search.by_cost(_positive(params, "params"), lambda c: c.num_params)
    else:
        assert latency is not None  # the only goal that is left
        found = search.by_cost(_positive(latency, "latency"), lambda c: c.seconds)
    goal = f"{chosen[0]}={goals[chosen[0]]}"
    return Suggestion(shape, goal, int(batch), name, tuple(found))


class _Search:
    """Candidates for one layer."""

    def __init__(
        self,
        weight: np.ndarray[Any, Any] | None,
        shape: tuple[int, int],
        batch: int,
        dtype: str,
    ) -> None:
        self._weight, self._shape, self._batch, self._dtype = weight, shape, batch, dtype
        self._modes = mode_choices(*shape)

    def by_error(self, eps: float) -> list[Candidate]:
        found = []
        for outs, ins in self._modes:
            spectra = self._spectra(outs, ins)
            budget = per_bond(eps, len(ins))
            inner = [choose_rank(s, budget, math.inf)[0] for s in spectra]
            found.append(self._candidate(outs, ins, (1, *inner, 1), spectra))
        return sorted(found, key=lambda c: (c.num_params, len(c.ranks)))

    def by_cost(self, most: float, cost: Callable[[Candidate], float]) -> list[Candidate]:
        """Of each choice of modes the largest ranks that cost at most ``most``."""
        found, least = [], math.inf
        for outs, ins in self._modes:
            spectra = () if self._weight is None else self._spectra(outs, ins)
            steps = levels(spectra) if spectra else _equal(outs, ins)
            low, high = -1, len(steps) - 1  # the largest index that is within the cost
            best = None
            while low < high:
                middle = (low + high + 1) // 2
                candidate = self._candidate(outs, ins, steps[middle], spectra)
                if cost(candidate) <= most:
                    low, best = middle, candidate
                else:
                    high = middle - 1
                    least = min(least, cost(candidate))
            if best is not None:
                found.append(best)
        if not found:
            raise TTValueError(
                f"no candidate is within {most:g}; the cheapest, with ranks of 1, takes {least:.4g}"
            )
        if self._weight is not None:
            return sorted(found, key=lambda c: (c.error, c.num_params))
        return sorted(found, key=lambda c: (oddness((*c.in_modes, *c.out_modes)), len(c.ranks)))

    def _candidate(self, outs: _Ranks, ins: _Ranks, ranks: _Ranks, spectra: Spectra) -> Candidate:
        shapes = tuple(
            (ranks[k], m, n, ranks[k + 1]) for k, (m, n) in enumerate(zip(outs, ins, strict=True))
        )
        costs: Plan = plan(shapes, batch=self._batch, dtype=self._dtype)
        error = None if self._weight is None else error_bound(spectra, ranks[1:-1])
        params = sum(map(math.prod, shapes))
        return Candidate(ins, outs, ranks, params, costs.flops, costs.seconds, error, spectra)

    def _spectra(self, outs: _Ranks, ins: _Ranks) -> Spectra:
        assert self._weight is not None  # asked for only where there is one
        return unfolding_spectra(self._weight, outs, ins)


def _equal(outs: _Ranks, ins: _Ranks) -> list[_Ranks]:
    """Equal ranks as far as the modes can use them."""
    pairs = [m * n for m, n in zip(outs, ins, strict=True)]
    most = [min(math.prod(pairs[:k]), math.prod(pairs[k:])) for k in range(len(pairs) + 1)]
    return [tuple(min(rank, limit) for limit in most) for rank in range(1, max(most) + 1)]


def _weight_or_shape(given: Any) -> tuple[np.ndarray[Any, Any] | None, tuple[int, int]]:
    if hasattr(given, "shape"):
        weight = host(given)
        if weight.ndim != 2 or 0 in weight.shape:
            raise TTShapeError(f"the weight has shape {weight.shape}, expected (out, in)")
        if weight.dtype.name not in {"float32", "float64", "complex64", "complex128"}:
            weight = weight.astype(np.float32 if weight.dtype.name == "float16" else np.float64)
        check_finite(weight, "the weight")
        return weight, (int(weight.shape[0]), int(weight.shape[1]))
    shape = check_modes(given, "shape")
    if len(shape) != 2:
        raise TTShapeError(f"shape={shape} has {len(shape)} entries, expected (out, in)")
    return None, (shape[0], shape[1])


def _positive(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TTTypeError(f"{name}={value!r} is no number") from error
    if not number > 0:
        raise TTValueError(f"{name}={value!r} must be above 0")
    return number


def _row(c: Candidate) -> tuple[str, ...]:
    costs = (f"{c.num_params}", f"{c.flops:.3g}", f"{1e3 * c.seconds:.3g}")
    return short(c.in_modes), short(c.out_modes), short(c.ranks), *costs, _short_error(c.error)


def _short_error(error: float | None) -> str:
    return "" if error is None else f"{error:.2e}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
