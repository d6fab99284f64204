"""The fully-connected layers of a model: where they are, and who shares their weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ttcore.adapters.torch.dense import dense_weight, is_dense
from ttcore.adapters.torch.modules import TTLinear
from ttcore.errors import TTTypeError

_WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel"}


@dataclass(frozen=True, slots=True)
class Place:
    """A layer, its names in the model, and whose children it is under which keys."""

    module: nn.Module
    names: list[str] = field(default_factory=list)
    parents: list[tuple[nn.Module, str]] = field(default_factory=list)

    @property
    def sizes(self) -> tuple[int, int]:
        """(out, in) of a dense layer."""
        outputs, inputs = dense_weight(self.module).shape
        return outputs, inputs


def find_layers(model: nn.Module) -> list[Place]:
    """The fully-connected layers of a model in its order, each once."""
    if not isinstance(model, nn.Module):
        raise TTTypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    if is_dense(model):
        raise TTTypeError(
            f"model is itself a {type(model).__name__}, which cannot be replaced in place; "
            "TTLinear.from_dense(model) makes the new layer"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        if type(module).__name__ in _WRAPPERS:
            raise TTTypeError(
                f"{name or 'model'} is a {type(module).__name__}, which would go on with the old "
                "parameters; replace layers first, then wrap"
            )
    found: dict[nn.Module, Place] = {}
    for name, module in modules.items():
        if name and _is_layer(module):
            place = found.setdefault(module, Place(module))
            above, _, key = name.rpartition(".")
            place.names.append(name)
            place.parents.append((modules[above], key))
    return list(found.values())


def _is_layer(module: nn.Module) -> bool:
    """Whether it is dense, or looks as if it had been: it has sizes, and no dense layer inside."""
    if is_dense(module):
        return True
    sizes = [getattr(module, name, None) for name in ("in_features", "out_features")]
    return all(isinstance(size, int) for size in sizes) and not any(map(is_dense, module.modules()))


def in_place_of(place: Place, new: TTLinear) -> TTLinear:
    """The new layer with the bias itself, and the flags, of the one that is there."""
    old: Any = place.module
    new.bias = old.bias
    new.cores.requires_grad_(old.weight.requires_grad)
    return new.train(old.training)


def exchange(changes: Sequence[tuple[Place, nn.Module]]) -> None:
    """Nothing here can fail half-way: the children of modules are the values of a dict."""
    for place, new in changes:
        for parent, key in place.parents:
            parent._modules[key] = new


class Memory:
    """Where the parameters and buffers of a model lie, to tell which of them share it."""

    def __init__(self, model: nn.Module) -> None:
        self._spans = []
        for prefix, module in model.named_modules():
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if type(tensor) in {Tensor, nn.Parameter} and tensor.numel():
                    name = f"{prefix}.{key}" if prefix else key
                    self._spans.append((name, module, tensor, _span(tensor)))

    def others(self, module: nn.Module) -> str:
        """Names of the tensors of other modules that share memory with the weight of this one."""
        weight = module._parameters["weight"]
        assert weight is not None  # it is dense
        device, first, last = _span(weight)
        return ", ".join(
            name
            for name, owner, tensor, (where, start, stop) in self._spans
            if owner is not module
            and (tensor is weight or (where == device and start < last and first < stop))
        )


def _span(tensor: Tensor) -> tuple[torch.device, int, int]:
    """Device, first byte, and the byte after the last."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return tensor.device, 0, 0
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    entries = 1 + sum((size - 1) * stride for size, stride in pairs)
    start = tensor.data_ptr()
    return tensor.device, start, start + entries * tensor.element_size()
