"""Dense layers: which modules are such, and their weight as (out, in).

Two classes are: `torch.nn.Linear`, and the ``Conv1D`` of transformers, a fully-connected layer
whose weight is (in, out). The second is told by its name: transformers is not imported.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
}
_HOOKS = (
    *("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


def is_dense(module: nn.Module) -> bool:
    """Whether this is one of the two classes, or derived from one."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Whether the weight is (in, out), as in the ``Conv1D`` of transformers."""
    return any(map(_is_conv1d, type(module).__mro__))


def dense_weight(module: nn.Module) -> Tensor:
    """The weight as (out, in): detached, not copied."""
    weight: Any = module.weight
    return weight.detach().T if is_conv1d(module) else weight.detach()


def why_not_dense(module: nn.Module) -> str:
    """Why the weight and the bias are not all that this module is; empty if they are."""
    if any(is_lazy(p) for p in module.parameters()):
        return "not initialised yet: run a batch through the model first"
    if parametrize.is_parametrized(module):
        names: Any = module.parametrizations
        return f"parametrised: {', '.join(names)}"
    if type(module) is not nn.Linear and not _is_conv1d(type(module)):
        return f"a {_path(type(module))}, whose weight others may read"
    own = {name for name in ("weight", "bias") if name in module._parameters}
    others = [*module._parameters, *module._buffers, *module._modules]
    others = [name for name in others if name not in own]
    if "weight" not in own or "bias" not in own:
        return f"its weight or bias is computed from {', '.join(others)}"
    if others:
        return f"holds more than weight and bias: {', '.join(others)}"
    reasons = (_why_not_plain(name, p) for name, p in module.named_parameters())
    return next(filter(None, reasons), "")


def why_not_replaceable(module: nn.Module) -> str:
    """What would be lost with a module that `why_not_dense` lets pass; empty if nothing would."""
    if "forward" in vars(module):
        return "its forward was replaced"
    hooks = [name for name in _HOOKS if vars(module).get(name)]
    hooks += [f"those of its {name}" for name, p in module.named_parameters() if p._backward_hooks]
    return f"has hooks: {', '.join(hook.strip('_') for hook in hooks)}" if hooks else ""


def _why_not_plain(name: str, tensor: Tensor) -> str:
    if type(tensor) not in {Tensor, nn.Parameter}:
        return f"its {name} is a {_path(type(tensor))}"
    if tensor.dtype not in _DTYPES:
        return f"its {name} is quantised: {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.layout != torch.strided:
        return f"its {name} is sparse"
    if tensor.is_meta:
        return f"its {name} is on the meta device, without values"
    return "" if bool(torch.isfinite(tensor).all()) else f"its {name} holds NaN or Inf"


def _is_conv1d(kind: type) -> bool:
    return kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"
