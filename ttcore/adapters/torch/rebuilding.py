"""Tensor trains put into a new model where a state dict has them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ttcore.adapters.torch.dense import dense_weight, is_dense
from ttcore.adapters.torch.modules import TTLinear
from ttcore.adapters.torch.places import Place, exchange, find_layers, in_place_of
from ttcore.errors import TTError, TTShapeError, TTValueError


def rebuild_layers(model: nn.Module, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put a `TTLinear` wherever a state dict has cores for a dense layer of the model, in place.

    Its values are not loaded: call ``model.load_state_dict(state_dict)`` next.

    Parameters
    ----------
    model : torch.nn.Module
        As it was made before `replace_layers` changed it.
    state_dict : mapping of str to tensor
        Of the model that `replace_layers` had changed.

    Returns
    -------
    tuple of str
        Names of the layers that were replaced.

    Raises
    ------
    TTValueError, TTShapeError
        If there are no cores for any layer, or they do not fit the layer of their name. The model
        is then as it was.

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
    changes = []
    for place in find_layers(model):
        cores = next(filter(None, (_cores_of(name, state_dict) for name in place.names)), None)
        if cores and is_dense(place.module):
            changes.append((place, _empty(place, cores)))
    if not changes:
        raise TTValueError(
            "the state dict has no cores (such as 'fc.cores.0') for any dense layer of the model; "
            f"its keys begin with {', '.join(map(repr, list(state_dict)[:3])) or 'nothing'}"
        )
    exchange(changes)
    return tuple(place.names[0] for place, _ in changes)


def _cores_of(name: str, state_dict: Mapping[str, Tensor]) -> list[Tensor]:
    def read() -> Iterator[Tensor]:
        k = 0
        while (core := state_dict.get(f"{name}.cores.{k}")) is not None:
            yield core
            k += 1

    return list(read())


def _empty(place: Place, cores: Sequence[Tensor]) -> TTLinear:
    """A layer for cores of these shapes."""
    shapes = [tuple(core.shape) for core in cores]
    name = place.names[0]
    if any(len(shape) != 4 for shape in shapes):
        raise TTShapeError(f"{name}: cores of shapes {shapes}, expected (r, out, in, r') for each")
    outputs, inputs = place.sizes
    weight = dense_weight(place.module)
    try:
        with torch.random.fork_rng(devices=[]):
            new = TTLinear(
                [shape[2] for shape in shapes],
                [shape[1] for shape in shapes],
                [1, *(shape[3] for shape in shapes)],
                bias=False,
                device=weight.device,
                dtype=weight.dtype,
                in_features=inputs,
                out_features=outputs,
            )
    except TTError as error:
        raise TTShapeError(f"{name}: cores of shapes {shapes} do not fit: {error}") from error
    return in_place_of(place, new)
