"""Operators of torch: ``ttcore::fc`` and its gradient, from `ttcore.layers.fc`.

The gradient of the gradient is made of the same two operators, so that any order works. Torch takes
longer to call an operator of one's own than a small layer takes to compute: plain eager calls on
the CPU go around it, by `_Eager`, and run the same functions.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ttcore.layers import fc
from ttcore.layers.tangent import tangent, tangent_gradients

_HALF = (torch.float16, torch.bfloat16)
_ORDINARY = (Tensor, nn.Parameter)


def tt_linear(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """``y = W x + b`` with the weight as a TT-matrix: `ttcore.layers.fc.forward` for tensors.

    Parameters
    ----------
    x : (..., N) tensor
    cores : sequence of d tensors (r_{k-1}, m_k, n_k, r_k)
        m: output mode, n: input mode.
    bias : (M,) tensor, optional

    Returns
    -------
    (..., M) tensor
        In the dtype of x where that is half precision, of the autocast where one is active, in the
        common dtype otherwise.

    Notes
    -----
    Half precision is computed in float32.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import tt_linear
    >>> cores = [torch.ones(1, 2, 3, 4), torch.ones(4, 2, 3, 1)]
    >>> tt_linear(torch.ones(9), cores)
    tensor([36., 36., 36., 36.])
    """
    if torch.compiler.is_compiling():
        y = torch.ops.ttcore.fc(x, list(cores), bias)
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        y = fc.forward(list(cores), x, bias)  # of torch's own products, which know every transform
    elif _is_eager(x, cores, bias):
        y = _Eager.apply(x, bias, *cores) if torch.is_grad_enabled() else _run(x, cores, bias)
    else:
        y = torch.ops.ttcore.fc(x, list(cores), bias)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device) and y.dtype in _AUTOCAST:
        y = y.to(torch.get_autocast_dtype(device))
    return y


_AUTOCAST = {torch.float32, torch.float16, torch.bfloat16}  # neither double nor complex


def _is_eager(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> bool:
    """Whether these are ordinary tensors on the CPU, and no mode watches the calls of operators."""
    if torch._C._len_torch_dispatch_stack():
        return False
    for a in (
        (x, *cores) if bias is None else (x, bias, *cores)
    ):  # a loop: `all` takes twice as long
        if type(a) not in _ORDINARY or not a.is_cpu:
            return False
    return True


class _Eager(torch.autograd.Function):
    """``ttcore::fc`` without the way through torch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *cores: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias, *cores)
        return _run(x, cores, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, *cores = ctx.saved_tensors
        watched = torch.is_grad_enabled() or not _is_eager(gy, cores, None)
        run = torch.ops.ttcore.fc_backward if watched else _run_backward
        gx, *gcores = run(x, cores, gy)
        return gx, _gradient_of_bias(bias, gy), *gcores


def _run(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    shift = None if bias is None else _array(bias)
    y = fc.forward([_array(g) for g in cores], _array(x), shift, workers=torch.get_num_threads())
    return torch.from_numpy(y) if x.dtype not in _HALF else torch.from_numpy(y).to(x.dtype)


def _run_backward(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    gx, gcores, _ = fc.backward(
        [_array(g) for g in cores], _array(x), _array(gy), workers=torch.get_num_threads()
    )
    found = []
    for gradient, operand in zip((gx, *gcores), (x, *cores), strict=True):
        tensor = torch.from_numpy(np.ascontiguousarray(gradient))
        found.append(tensor if tensor.dtype == operand.dtype else tensor.to(operand.dtype))
    return found


@torch.library.custom_op("ttcore::fc", mutates_args=())
def _fc(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    if _on_cpu(x, *cores):
        return _run(x, cores, bias)
    return fc.forward(cores, x, bias).contiguous()


@_fc.register_fake
def _(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    inputs, outputs = (math.prod(g.shape[axis] for g in cores) for axis in (2, 1))
    torch._check(x.shape[-1] == inputs, lambda: f"x has shape {tuple(x.shape)}, N is {inputs}")
    return x.new_empty((*x.shape[:-1], outputs), dtype=_result_type(x, cores, bias))


@torch.library.custom_op("ttcore::fc_backward", mutates_args=())
def _fc_backward(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    if _on_cpu(x, gy, *cores):
        return _run_backward(x, cores, gy)
    gx, gcores, _ = fc.backward(cores, x, gy)
    return [a.contiguous() for a in (gx, *gcores)]


@_fc_backward.register_fake
def _(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    return [torch.empty_like(a, memory_format=torch.contiguous_format) for a in (x, *cores)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, cores, last = inputs  # the bias, or the gradient that comes in
    ctx.save_for_backward(x, last, *cores)


def _backward(ctx: Any, gy: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
    x, bias, *cores = ctx.saved_tensors
    gx, *gcores = torch.ops.ttcore.fc_backward(x, cores, gy)
    return gx, gcores, _gradient_of_bias(bias, gy)


def _gradient_of_bias(bias: Tensor | None, gy: Tensor) -> Tensor | None:
    if bias is None:
        return None
    gbias = gy.sum(dim=tuple(range(gy.ndim - 1))) if gy.ndim > 1 else gy
    return (gbias if bias.is_complex() or not gbias.is_complex() else gbias.real).to(bias.dtype)


def _backward_backward(
    ctx: Any, directions: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """In the direction (u, V) that comes in: the gradient of a product with a tangent train."""
    x, gy, *cores = ctx.saved_tensors
    u, *v = (
        torch.zeros_like(a) if direction is None else direction
        for a, direction in zip((x, *cores), directions, strict=True)
    )
    moved = list(tangent(tuple(cores), tuple(v)))
    gx, *gmoved = torch.ops.ttcore.fc_backward(x, moved, gy)
    _, *gcores = torch.ops.ttcore.fc_backward(u, cores, gy)
    gcores = [a + b for a, b in zip(gcores, tangent_gradients(gmoved, tuple(cores)), strict=True)]
    ggy = torch.ops.ttcore.fc(u, cores, None) + torch.ops.ttcore.fc(x, moved, None)
    return gx, gcores, ggy


_fc.register_autograd(_backward, setup_context=_save)
_fc_backward.register_autograd(_backward_backward, setup_context=_save)


def _array(a: Tensor) -> np.ndarray[Any, Any]:
    """A view as NumPy sees it; half precision is converted."""
    a = a.detach()
    if a.dtype in _HALF:
        a = a.float()
    try:
        return a.numpy()
    except RuntimeError:  # conjugated or negated on paper only
        return a.resolve_conj().resolve_neg().numpy()


def _on_cpu(*tensors: Tensor) -> bool:
    return all(a.device.type == "cpu" for a in tensors)


def _result_type(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> torch.dtype:
    """As in `ttcore.layers.fc.forward`."""
    if x.dtype in _HALF:
        return x.dtype
    found = x.dtype
    for a in (*cores, *(() if bias is None else (bias,))):
        found = torch.promote_types(found, a.dtype)
    return found
