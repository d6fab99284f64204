"""Tensor trains put into a new model where a state dict has them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ttcore.adapters.torch.delta import TTDelta
from ttcore.adapters.torch.dense import dense_weight, is_dense
from ttcore.adapters.torch.modules import TTLinear
from ttcore.adapters.torch.places import Place, exchange, find_layers, in_place_of
from ttcore.errors import TTError, TTShapeError, TTValueError


def rebuild_layers(model: nn.Module, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put a `TTLinear` wherever a state dict has cores for a dense layer of the model, in place.

    And a `TTDelta` where it has cores beside a dense layer. Values are not loaded: call
    ``model.load_state_dict(state_dict)`` next.

    Parameters
    ----------
    model : torch.nn.Module
        As it was made before layers were exchanged.
    state_dict : mapping of str to tensor
        Of the model in which `replace_layers` had exchanged them, or `TTDelta` was put around them.

    Returns
    -------
    tuple of str
        Names of the layers that were replaced.

    Raises
    ------
    TTValueError, TTShapeError
        If there are no cores for any layer, or they do not fit the layer of their name.
    TTTypeError
        If `TTDelta` refuses the layer. In all cases the model is then as it was.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import rebuild_layers, replace_layers
    >>> net = torch.nn.Sequential(torch.nn.Linear(256, 256))
    >>> report = replace_layers(net, rank=4)
    >>> new = torch.nn.Sequential(torch.nn.Linear(256, 256))
    >>> rebuild_layers(new, net.state_dict())
    ('0',)
    >>> new.load_state_dict(net.state_dict())
    <All keys matched successfully>
    """
    found = []
    for place in find_layers(model):
        if is_dense(place.module):
            for inside in ("", ".delta"):
                names = (name + inside for name in place.names)
                cores = next(filter(None, (_cores_of(name, state_dict) for name in names)), None)
                if cores:
                    layer = _empty(place, cores, place.names[0] + inside, alone=not inside)
                    found.append((place, layer, bool(inside)))
                    break
    if not found:
        raise TTValueError(
            "the state dict has no cores (such as 'fc.cores.0') for any dense layer of the model; "
            f"its keys begin with {', '.join(map(repr, list(state_dict)[:3])) or 'nothing'}"
        )
    flags = [(p, p.requires_grad) for place, *_ in found for p in place.module.parameters()]
    try:
        changes = [
            (place, _delta(place, layer) if beside else in_place_of(place, layer))
            for place, layer, beside in found
        ]
    except Exception:  # a delta freezes its base
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        raise
    exchange(changes)
    return tuple(place.names[0] for place, *_ in found)


def _cores_of(name: str, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
    def read() -> Iterator[Tensor]:
        k = 0
        while (core := state_dict.get(f"{name}.cores.{k}")) is not None:
            yield core
            k += 1

    return list(read())


def _empty(place: Place, cores: Sequence[Tensor], name: str, *, alone: bool) -> TTLinear:
    """A layer for cores of these shapes; in the dtype of the dense layer where it is alone."""
    shapes = [tuple(core.shape) for core in cores]
    if any(len(shape) != 4 for shape in shapes):
        raise TTShapeError(f"{name}: cores of shapes {shapes}, expected (r, out, in, r') for each")
    outputs, inputs = place.sizes
    weight = dense_weight(place.module)
    try:
        with torch.random.fork_rng(devices=[]):
            return TTLinear(
                [shape[2] for shape in shapes],
                [shape[1] for shape in shapes],
                [1, *(shape[3] for shape in shapes)],
                bias=False,
                device=weight.device,
                dtype=weight.dtype if alone else cores[0].dtype,
                in_features=inputs,
                out_features=outputs,
            )
    except TTError as error:
        raise TTShapeError(f"{name}: cores of shapes {shapes} do not fit: {error}") from error


def _delta(place: Place, like: TTLinear) -> TTDelta:
    """A delta on the layer that is there."""
    with torch.random.fork_rng(devices=[]):
        return TTDelta(
            place.module, like.ranks, like.in_modes, like.out_modes, dtype=like.cores[0].dtype
        )
