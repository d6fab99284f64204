"""The layer as torch has it, beside `torch.nn.Linear` and the TT layers of torch."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import rivals
from layers import DENSE, LARGEST, LISTED, MERGED, PLAIN, VGG, agree, made, rows, shown
from table import Row, best, compare
from timing import ROUNDS, in_turns, peak_bytes

import ttcore as tt

OURS, LINEAR = "ttcore", DENSE[1]
FACTORIZED = "tensorly-torch"
CONTENDERS = (*PLAIN[:3], *MERGED)


def modules(matrix: tt.TTMatrix, batch: int, names: Sequence[str]) -> dict[str, Any]:
    """(forward, parameters) of each, all without a bias, ttcore's `TTLinear` first."""
    torch = rivals.load("torch")
    from ttcore.adapters.torch import TTLinear

    layer = TTLinear(matrix.col_modes, matrix.row_modes, matrix.ranks, bias=False)
    with torch.no_grad():
        for core, values in zip(layer.cores, matrix.cores, strict=True):
            core.copy_(torch.from_numpy(np.array(values)))
    found = {OURS: (layer, list(layer.cores))}
    if LINEAR in names:
        linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(matrix.to_dense()))
        found[LINEAR] = (linear, [linear.weight])
    makers = rivals.layers()
    return found | {name: makers[name](matrix, batch) for name in names if name in makers}


def calls(
    matrix: tt.TTMatrix, batch: int, names: Sequence[str], *, gradients: bool
) -> dict[str, Callable[[], Any]]:
    """Forward without autograd; or forward, and gradients of the rows and the parameters."""
    torch = rivals.load("torch")
    x = torch.from_numpy(rows(batch, matrix.shape[1]))
    upstream = torch.from_numpy(rows(batch, matrix.shape[0]))

    def forward(layer: Any, parameters: list[Any]) -> Any:
        with torch.inference_mode():
            return layer(x)

    def both(layer: Any, parameters: list[Any]) -> Any:
        tensor = x.detach().requires_grad_()
        y = layer(tensor)
        return y.detach(), *torch.autograd.grad(y, [tensor, *parameters], upstream)

    run = both if gradients else forward
    return {name: partial(run, *layer) for name, layer in modules(matrix, batch, names).items()}


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    if rivals.load("torch") is None:
        return
    yield from _vgg(quick, say)
    yield from _listed(quick, say)


def _vgg(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    matrix = made(VGG, 4)
    names = CONTENDERS if quick else (LINEAR, *CONTENDERS)
    wanted = {  # the best peer, tensorly-torch
        ("forward", 1): (2.5, 8),
        ("forward", 100): (None, 4),
        ("forward + backward", 1): (3, None),
        ("forward + backward", 100): (3, None),
    }
    for (what, batch), (peer, factorized) in wanted.items():
        work = f"TTLinear, VGG layer, batch {batch}, {what}"
        say(f"torch: {work}")
        contenders = calls(matrix, batch, names, gradients="backward" in what)
        rounds = 2 if quick else ROUNDS
        timings = in_turns(contenders, check=agree, always=contenders, rounds=rounds)
        say(shown(timings))
        if LINEAR in timings:
            yield compare("torch", work, timings, LINEAR, None)
        yield compare("torch", work, timings, best(timings, PLAIN), peer)
        yield compare("torch", work, timings, best(timings, MERGED), None)
        if FACTORIZED in timings:
            yield compare("torch", work, timings, FACTORIZED, factorized)
        if "backward" in what and sys.platform == "linux" and not quick:
            yield from _memory(batch)


def _listed(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """The bench list of P2b, beside the dense layer."""
    for name, modes, rank, batches in LISTED[-1:] if quick else LISTED:
        matrix = made(modes, rank)
        if 4 * matrix.size > LARGEST:
            continue
        for batch in batches:
            for gradients in (False, True):
                what = "forward + backward" if gradients else "forward"
                work = f"TTLinear, {name}, batch {batch}, {what}"
                say(f"torch: {work}")
                contenders = calls(matrix, batch, (LINEAR,), gradients=gradients)
                timings = in_turns(contenders, check=agree, always=contenders, rounds=5)
                yield compare("torch", work, timings, LINEAR, 1.0, target="> 1 ×")


def _memory(batch: int) -> Iterator[Row]:
    """What training holds: parameters, and what a step takes at its peak."""
    found = {}
    for name in (OURS, LINEAR, FACTORIZED, PLAIN[0]):
        command = [sys.executable, __file__, json.dumps([name, batch])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found[name] = int(done.stdout.split()[-1]) / 2**20
    ours = found.pop(OURS)
    for name, theirs in found.items():
        yield Row(
            "torch",
            f"TTLinear, VGG layer, batch {batch}: memory of parameters and of a step",
            name,
            f"{theirs:.3g} MiB",
            f"{ours:.3g} MiB",
            f"{theirs / ours:.3g}",
            "≥ 1 ×" if name == LINEAR else "–",
            ("yes" if ours <= theirs else "no") if name == LINEAR else "–",
        )


def _child(name: str, batch: int) -> None:
    for count in (2, batch):  # loads and starts what is needed
        call = calls(made(VGG, 4), count, (name,), gradients=True)[name]
        for _ in range(2):
            call()
    _, parameters = modules(made(VGG, 4), batch, (name,))[name]
    rise, _ = peak_bytes(call)
    print(rise + sum(p.numel() * p.element_size() for p in parameters))


if __name__ == "__main__":
    _child(*json.loads(sys.argv[1]))
