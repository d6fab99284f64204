"""Operators of torch: ``ttcore::fc`` and its gradient, from `ttcore.layers.fc`.

The gradient of the gradient is made of the same two operators, so that any order works. Torch takes
longer to call an operator of one's own than a small layer takes to compute: plain eager calls on
the CPU go around it, by `_Eager`, and run the same functions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttcore.adapters.torch.host import HALF, run, run_backward, sum_of_rows
from ttcore.adapters.torch.state import (
    are_ordinary,
    is_plain,
    is_recorded,
    is_transformed,
    is_watched,
    without_autocast,
)
from ttcore.errors import TTTypeError
from ttcore.layers import fc
from ttcore.layers.tangent import tangent, tangent_gradients


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
        common dtype otherwise; complex where any of them is.

    Raises
    ------
    TTShapeError, TTTypeError
        If the tensors do not fit together, or are on several devices.

    Notes
    -----
    Half precision is computed in float32; on the CPU a block of rows at a time.

    Examples
    --------
    >>> import torch
    >>> from ttcore.adapters.torch import tt_linear
    >>> cores = [torch.ones(1, 2, 3, 4), torch.ones(4, 2, 3, 1)]
    >>> tt_linear(torch.ones(9), cores)
    tensor([36., 36., 36., 36.])
    """
    if is_plain() and are_ordinary((x, *cores) if bias is None else (x, bias, *cores)):
        y = _Eager.apply(x, bias, *cores) if torch.is_grad_enabled() else run(x, cores, bias)
        if not torch.is_autocast_enabled("cpu"):
            return y
    elif is_transformed():
        y = fc_of_torch(x, cores, bias)
    elif is_recorded():
        compute = fc_of_torch if torch.onnx.is_in_onnx_export() else torch.ops.ttcore.fc
        y = compute(x, list(cores), bias)
    else:
        y = torch.ops.ttcore.fc(x, list(cores), bias)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device) and y.dtype in _AUTOCAST:
        y = y.to(torch.get_autocast_dtype(device))
    return y


_AUTOCAST = {torch.float32, torch.float16, torch.bfloat16}  # neither double nor complex


def fc_of_torch(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """``ttcore::fc`` by torch's own products, which every transformation and exporter knows."""
    _check_devices(x, cores, bias)
    with without_autocast(x.device.type):
        return fc.forward(list(cores), x, bias)


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """What ``ttcore::fc`` is made of, for ``torch.export`` programs that leave torch.

    Only programs that exist already need it, as
    ``torch.onnx.export(program.run_decompositions(decompositions()))``; `torch.onnx.export` of a
    module finds plain products.

    Examples
    --------
    >>> from ttcore.adapters.torch import decompositions
    >>> [str(operator) for operator in decompositions()]
    ['ttcore.fc.default']
    """
    return {torch.ops.ttcore.fc.default: fc_of_torch}


class _Eager(torch.autograd.Function):
    """``ttcore::fc`` without the way through torch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *cores: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias, *cores)
        return run(x, cores, bias)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, *cores = ctx.saved_tensors
        plain = not torch.is_grad_enabled() and are_ordinary((gy, *cores)) and not is_watched()
        gx, *gcores = (run_backward if plain else torch.ops.ttcore.fc_backward)(x, cores, gy)
        return gx, _gradient_of_bias(bias, gy, plain), *gcores


@torch.library.custom_op("ttcore::fc", mutates_args=())
def _fc(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    if _on_cpu(x, *cores, *(() if bias is None else (bias,))):
        return run(x, cores, bias)
    return fc_of_torch(x, cores, bias).contiguous()


@_fc.register_fake
def _(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    _check_devices(x, cores, bias)
    inputs, outputs = (math.prod(g.shape[axis] for g in cores) for axis in (2, 1))
    torch._check(x.shape[-1] == inputs, lambda: f"x has shape {tuple(x.shape)}, N is {inputs}")
    return x.new_empty((*x.shape[:-1], outputs), dtype=_result_type(x, cores, bias))


@torch.library.custom_op("ttcore::fc_backward", mutates_args=())
def _fc_backward(x: Tensor, cores: Sequence[Tensor], gy: Tensor) -> list[Tensor]:
    if _on_cpu(x, gy, *cores):
        return run_backward(x, cores, gy)
    with without_autocast(x.device.type):
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


def _gradient_of_bias(bias: Tensor | None, gy: Tensor, plain: bool = False) -> Tensor | None:
    if bias is None:
        return None
    if gy.ndim == 1:
        gbias = gy
    elif gy.numel() == gy.shape[-1]:  # one vector: nothing to add up
        gbias = gy.reshape(-1)
    else:
        gbias = sum_of_rows(gy) if plain else gy.sum(tuple(range(gy.ndim - 1)))
    if gbias.dtype == bias.dtype:
        return gbias
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


def _on_cpu(*tensors: Tensor) -> bool:
    return all(a.device.type == "cpu" for a in tensors)


def _check_devices(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> None:
    """One error for what torch would complain about somewhere in a chain of products."""
    for k, a in enumerate((*cores, bias)):
        if a is not None and a.device != x.device:
            name = f"core {k}" if k < len(cores) else "the bias"
            raise TTTypeError(
                f"x is on {x.device}, {name} on {a.device}; move the vectors or the layer, so that "
                "all are on one device"
            )


def _result_type(x: Tensor, cores: Sequence[Tensor], bias: Tensor | None) -> torch.dtype:
    """As in `ttcore.layers.fc.forward`."""
    found = x.dtype
    for a in (*cores, *(() if bias is None else (bias,))):
        found = torch.promote_types(found, a.dtype)
    return x.dtype if x.dtype in HALF and not found.is_complex else found
