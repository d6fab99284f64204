"""What `TTLinear` adds to the functions of arrays that it calls, in microseconds a call.

    python bench/torch_overhead.py [--rounds 15] [--calls 300] [--threads 1]

For each layer and batch, all in turns in one process, the best of the rounds (what others on the
machine do only adds):

* arrays: ``fc.forward``, or it and ``fc.backward``, on the NumPy arrays that the tensors share;
* layer: ``layer(x)`` without and with autograd, and with ``torch.autograd.grad`` for x, all cores
  and the bias;
* torch: an ``autograd.Function`` of the same number of tensors, called in the same way, that saves
  them and returns answers made beforehand: what torch itself takes. Without autograd it is a module
  that returns an answer, and entering and leaving ``torch.no_grad``, as each call does here.

"overhead" is layer less arrays; "ours" is that less torch's own.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from ttcore.adapters.torch import TTLinear
from ttcore.layers import fc

LAYERS = {
    "28->15, 2 cores": ((4, 7), (5, 3), 3),
    "784->800, 4 cores": ((4, 7, 4, 7), (5, 5, 8, 4), 3),
    "25088->4096, 6 cores": ((2, 7, 8, 8, 7, 4), (4,) * 6, 4),
}


class Empty(torch.autograd.Function):
    """Nothing, in as many arguments."""

    @staticmethod
    def forward(ctx: Any, answer: Any, gradients: Any, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.gradients = gradients
        return answer.detach()

    @staticmethod
    def backward(ctx: Any, gy: Any) -> Any:
        _ = ctx.saved_tensors
        return None, None, *ctx.gradients


class EmptyModule(torch.nn.Module):
    """`Empty` as a module: calling one is torch's time too."""

    def __init__(self, layer: TTLinear, answer: Any, gradients: Any) -> None:
        super().__init__()
        self.tensors = list(layer.cores.parameters())
        self.shift = layer.bias
        self.answer, self.gradients = answer, gradients

    def forward(self, x: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.answer
        return Empty.apply(self.answer, self.gradients, x, self.shift, *self.tensors)


def contenders(layer: TTLinear, batch: int) -> dict[str, Callable[[], Any]]:
    x = torch.randn(batch, layer.in_features, requires_grad=True)
    gy = torch.randn(batch, layer.out_features)
    operands = [x, layer.bias, *layer.cores]
    cores = [g.detach().numpy() for g in layer.cores]
    rows, slope, shift = x.detach().numpy(), gy.numpy(), layer.bias.detach().numpy()
    workers = torch.get_num_threads()

    def arrays() -> Any:
        return fc.forward(cores, rows, shift, workers=workers)

    def arrays_back() -> Any:
        return arrays(), fc.backward(cores, rows, slope, shift, workers=workers)

    def without() -> Any:
        with torch.no_grad():
            return layer(x)

    def back() -> Any:
        return torch.autograd.grad(layer(x), operands, gy)

    empty = EmptyModule(layer, layer(x).detach(), back())

    def empty_without() -> Any:
        with torch.no_grad():
            return empty(x)

    def empty_back() -> Any:
        return torch.autograd.grad(empty(x), operands, gy)

    return {
        "arrays": arrays,
        "no_grad": without,
        "layer": lambda: layer(x),
        "torch no_grad": empty_without,
        "torch": lambda: empty(x),
        "arrays back": arrays_back,
        "layer back": back,
        "torch back": empty_back,
    }


def measured(calls: dict[str, Callable[[], Any]], rounds: int, number: int) -> dict[str, float]:
    """Microseconds a call: the best of the rounds, in each of which all take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(number):
                call()
            if turn:  # the first is for warming up
                found[name].append(1e6 * (time.perf_counter() - start) / number)
    return {name: min(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"{'µs a call':26}{'':22}{'arrays':>8}{'layer':>8}{'torch':>8}{'overhead':>10}{'ours':>8}"
    )
    for name, (ins, outs, rank) in LAYERS.items():
        layer = TTLinear(ins, outs, rank)
        for batch in (1, 16):
            t = measured(contenders(layer, batch), options.rounds, options.calls)
            rows = {
                "forward, no_grad": (t["arrays"], t["no_grad"], t["torch no_grad"]),
                "forward": (t["arrays"], t["layer"], t["torch"]),
                "forward + backward": (t["arrays back"], t["layer back"], t["torch back"]),
            }
            for what, (ours, whole, torchs) in rows.items():
                figures = (ours, whole, torchs, whole - ours, whole - ours - torchs)
                shown = "".join(f"{figure:10.1f}" for figure in figures)
                print(f"{name + f', batch {batch}':31}{what:20}{shown}", flush=True)


if __name__ == "__main__":
    main()
