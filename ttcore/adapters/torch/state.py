"""What torch is doing while it calls: answers by names that torch keeps private.

There are no public ones. Each question stands here once, and where a version of torch has not the
name, the answer is the one that is right in any case, if slow: torch's own products.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_ORDINARY = (Tensor, nn.Parameter)


def _yes() -> bool:
    return True


_transforms = getattr(torch._C, "_are_functorch_transforms_active", _yes)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", _yes)


_tracing = getattr(torch.jit, "is_tracing", bool)  # public, but TorchScript is on its way out


def is_recorded() -> bool:
    """Whether a compiler, an exporter or ``torch.jit.trace`` writes down what is called."""
    return torch.compiler.is_compiling() or _tracing()


def is_transformed() -> bool:
    """Whether `torch.func`, or differentiation in forward mode, follows what is computed."""
    return _transforms() or getattr(forward_ad, "_current_level", 0) >= 0


def is_watched() -> bool:
    """Whether a mode sees, or records, all operators."""
    return _modes() > 0


def are_ordinary(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether these, where they are not None, are plain tensors on the CPU."""
    for a in tensors:
        if a is None or (type(a) in _ORDINARY and a.is_cpu):
            continue  # a loop: `all` takes twice as long
        return False
    return True


def without_autocast(device: str) -> Any:
    """A context in which torch's products keep the dtypes that they are given.

    An operator's own kernel still runs under the caller's autocast, which would round every state
    between two cores to half precision.
    """
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
