"""Dense layers of a trained model exchanged for tensor trains, in place.

What cannot be exchanged without harm to something else is kept, with the reason: weights that other
modules share or read, that are computed, quantised or not there yet, and layers with hooks.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ttcore.adapters.torch.delta import TTDelta
from ttcore.adapters.torch.dense import (
    dense_weight,
    is_dense,
    why_not_dense,
    why_not_replaceable,
)
from ttcore.adapters.torch.modules import TTLinear
from ttcore.adapters.torch.places import Memory, Place, exchange, find_layers, in_place_of
from ttcore.adapters.torch.report import LayerReport, Report
from ttcore.errors import TTTypeError, TTValueError
from ttcore.layers.modes import usual_modes
from ttcore.layers.spectra import SEEN
from ttcore.layers.suggesting import suggest


def replace_layers(
    model: nn.Module,
    *,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    min_params: int = 4096,
    eps: float | None = None,
    ratio: float | None = None,
    rank: int | None = None,
    dry_run: bool = False,
) -> Report:
    """Replace the dense layers of a trained model by `TTLinear`, in place.

    Parameters
    ----------
    model : torch.nn.Module
        Its `torch.nn.Linear`, and the Conv1D of transformers, are replaced. Make the optimizer
        afterwards, and wrap for data-parallel training afterwards.
    include, exclude : str or sequence of str, optional
        Glob patterns on the full names of layers, such as ``"encoder.*.linear?"``; ``*`` matches
        dots too, and case matters. A layer is replaced if one of ``include`` matches its name, or
        none is given, and none of ``exclude`` does.
    min_params : int
        Layers whose weights have fewer entries are kept.
    eps, ratio, rank : optional
        The goal, exactly one of them. The relative error of each weight, at most, with the fewest
        parameters; the entries of each weight over those of its cores, at least, with the smallest
        error; or the rank, at most, with modes near 4 to 8.
    dry_run : bool
        Whether to leave the model as it is. The report is the same.

    Returns
    -------
    Report
        Of each layer its parameters before and after, the error of its weight, and where it was
        kept, why; print it.

    Raises
    ------
    TTTypeError, TTValueError
        If an argument is not of these, a pattern matches no layer, or the model is itself a layer
        or wrapped for data-parallel training. The model is then as it was.

    See Also
    --------
    rebuild_layers : The same layers in a new model, to load what was saved.

    Notes
    -----
    Everything is computed before anything is replaced. Training mode, device, dtype and
    ``requires_grad`` are kept; the bias stays the same parameter. A layer that the model has in
    several places stays one layer. The random numbers of torch are not touched.

    Kept are layers whose weight is tied to another module's, parametrised (also by weight_norm or
    pruning), quantised, sparse, not initialised or without values; layers with hooks; classes
    derived from the two, such as that in `torch.nn.MultiheadAttention`, whose weight is read by
    others; and layers that would not get smaller.

    For ``eps`` and ``ratio`` the spectra of each weight are computed, about two seconds for one of
    3072 x 768; for ``rank``, only its TT-SVD.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import replace_layers
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)
    ... )
    >>> report = replace_layers(net, ratio=20, exclude="2")
    >>> [layer.names[0] for layer in report.replaced], report["2"].reason
    (['0'], "excluded by '2'")
    >>> report["0"].before / report["0"].after > 19
    True
    """
    goal = _check_goal(eps=eps, ratio=ratio, rank=rank)
    least = _check_count(min_params, "min_params", 0)
    places = find_layers(model)
    included = None if include is None else _matching(include, "include", places)
    excluded = {} if exclude is None else _matching(exclude, "exclude", places)
    memory = Memory(model)
    layers, changes = [], []
    for place in places:
        reason = _unwanted(place, included, excluded) or _why_kept(place, memory, least)
        new, row = (None, _kept(place, reason)) if reason else _fitted(place, goal)
        layers.append(row)
        changes += [(place, new)] if new is not None else []
    before = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    after = before - sum(layer.before - layer.after for layer in layers)
    if not dry_run:
        exchange(changes)
    return Report(tuple(layers), before, after, f"{goal.name}={goal.value}", dry_run)


@dataclass(frozen=True, slots=True)
class _Goal:
    name: str
    value: float


def _matching(patterns: str | Sequence[str], what: str, places: list[Place]) -> dict[str, str]:
    """For each name that matches, its pattern."""
    if not isinstance(patterns, str | Sequence):
        raise TTTypeError(f"{what}={patterns!r}, expected a glob pattern such as 'fc*', or several")
    listed = [patterns] if isinstance(patterns, str) else patterns
    names = [name for place in places for name in place.names]
    found: dict[str, str] = {}
    for pattern in listed:
        if not isinstance(pattern, str):
            raise TTTypeError(f"{what} holds {pattern!r}, expected glob patterns such as 'fc*'")
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise TTValueError(
                f"{what}: {pattern!r} matches none of the {len(names)} layers ({shown})"
            )
        found |= dict.fromkeys(matched, pattern)
    return found


def _unwanted(place: Place, included: dict[str, str] | None, excluded: dict[str, str]) -> str:
    if included is not None and not any(name in included for name in place.names):
        return "not included"
    for name in place.names:
        if name in excluded:
            return f"excluded by {excluded[name]!r}"
    return ""


def _why_kept(place: Place, memory: Memory, least: int) -> str:
    module = place.module
    if isinstance(module, TTLinear):
        return "a TTLinear already"
    if not is_dense(module):
        return f"a {type(module).__module__}.{type(module).__name__}, quantised or of its own kind"
    for parent, key in place.parents:
        if isinstance(parent, TTDelta) or key == "base_layer":  # the second is what PEFT calls it
            return f"wrapped by a {type(parent).__name__}, which reads its weight"
    reason = why_not_dense(module) or why_not_replaceable(module)
    if reason:
        return reason
    others = memory.others(module)
    if others:
        return f"its weight is tied to {others}"
    count = math.prod(place.sizes)
    return f"has {count} weights, below min_params={least}" if count < least else ""


def _kept(place: Place, reason: str) -> LayerReport:
    module = place.module
    count = sum(p.numel() for p in module.parameters() if not is_lazy(p))
    weight = module._parameters.get("weight")
    known = is_dense(module) and weight is not None and not is_lazy(weight)
    sizes = place.sizes if known else None
    return LayerReport(tuple(place.names), sizes, count, count, reason=reason)


def _fitted(place: Place, goal: _Goal) -> tuple[TTLinear | None, LayerReport]:
    """The new layer and its report; None, and why, where it would not be smaller."""
    weight = dense_weight(place.module)
    values = weight.float() if weight.dtype in {torch.float16, torch.bfloat16} else weight
    outputs, inputs = place.sizes
    count = weight.numel()
    if goal.name == "rank":
        outs, ins = usual_modes(outputs, inputs)
        caps: Any = int(goal.value)
    else:
        try:
            best = suggest(values, **_for_suggest(goal, count)).best
        except TTValueError as error:  # not even ranks of 1 are small enough
            return None, _kept(place, str(error))
        if best.num_params >= count:
            return None, _too_large(place, best.num_params, goal)
        outs, ins, caps = best.out_modes, best.in_modes, best.ranks[1:-1]
    with torch.random.fork_rng(devices=[]):
        new = TTLinear.from_dense(place.module, ins, outs, max_rank=caps, pad=True)
    cores = sum(core.numel() for core in new.cores)
    if cores >= count:
        return None, _too_large(place, cores, goal)
    with torch.no_grad():
        size = float(torch.linalg.vector_norm(values))
        distance = float(torch.linalg.vector_norm(new.to_dense() - values))
    bias = place.module._parameters["bias"]
    shift = 0 if bias is None else bias.numel()
    row = LayerReport(
        tuple(place.names),
        (outputs, inputs),
        count + shift,
        cores + shift,
        distance / (size or 1.0),
        ins,
        outs,
        new.ranks,
    )
    return in_place_of(place, new), row


def _for_suggest(goal: _Goal, count: int) -> dict[str, Any]:
    if goal.name == "eps":
        return {"eps": goal.value}
    return {"params": max(1, math.floor(count / goal.value))}


def _too_large(place: Place, params: int, goal: _Goal) -> LayerReport:
    return _kept(place, f"would not get smaller: {params} parameters for {goal.name}={goal.value}")


def _check_goal(**goals: float | None) -> _Goal:
    given = [_Goal(name, value) for name, value in goals.items() if value is not None]
    if len(given) != 1:
        names = " and ".join(goal.name for goal in given) or "no goal"
        raise TTValueError(f"got {names}; give exactly one of eps, ratio and rank")
    (goal,) = given
    if goal.name == "rank":
        _check_count(goal.value, "rank", 1)
        return goal
    if not isinstance(goal.value, numbers.Real) or isinstance(goal.value, bool):
        raise TTTypeError(f"{goal.name}={goal.value!r} is no real number")
    if goal.name == "eps" and not SEEN <= goal.value < 1:
        raise TTValueError(
            f"eps={goal.value} must be below 1, and at least {SEEN}: smaller errors cannot be told"
        )
    if goal.name == "ratio" and not 1 < goal.value < math.inf:
        raise TTValueError(
            f"ratio={goal.value} must be above 1: 10 leaves a tenth of the weights, or fewer"
        )
    return goal


def _check_count(value: Any, name: str, least: int) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TTTypeError(f"{name}={value!r} is no int")
    if value < least:
        raise TTValueError(f"{name}={value} must be at least {least}")
    return int(value)
