"""The VGG layer 25088 -> 4096 at rank 4 on a CUDA device, beside the dense layer.

    python bench/torch_cuda.py [--out FOLDER] [--repeats 20] [--batches 1 100 10000] [--rank 4]

Eager, float32; each as forward without gradients, and as forward and the gradients of x and all
parameters:

* dense: ``torch.nn.Linear``, and with tf32 for its products;
* TTLinear: the portable path of the adapter, and with tf32;
* chain: the bare products of the same plan, cores merged beforehand, by torch's autograd;
* graph: forward of TTLinear as a CUDA graph, where Python takes no time.

Times are medians between CUDA events after warming up. Memory is what is in use at the peak beyond
the layer and its input. What is computed is compared with the CPU in float64.
"""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ttcore
from ttcore.adapters.torch import TTLinear
from ttcore.kernels.merging import AXES
from ttcore.planner import batch_class, order
from ttcore.typing import Stage

INS, OUTS = (2, 7, 8, 8, 7, 4), (4,) * 6
WARM = 5


def plan_of(layer: TTLinear, batch: int) -> tuple[Stage, ...]:
    """The stages that the adapter computes this batch by."""
    shapes = tuple(tuple(core.shape) for core in layer.cores)
    return order(shapes, batch_class(batch), "float32", "rows", native=False).stages


def matrices_of(layer: TTLinear, stages: Sequence[Stage]) -> list[Tensor]:
    """The matrix of each stage, its cores merged."""
    found = []
    for stage in stages:
        joined, *others = (core.detach() for core in layer.cores[stage.first : stage.last])
        for core in others:
            step = torch.einsum("amnb,bpqc->ampnqc", joined, core)
            r, m, p, n, q, s = step.shape
            joined = step.reshape(r, m * p, n * q, s)
        found.append(joined.permute(AXES[stage.form]).reshape(stage.rows, stage.k).contiguous())
    return found


def chain(x: Tensor, matrices: Sequence[Tensor], stages: Sequence[Stage], bias: Tensor) -> Tensor:
    state = x
    for a, stage in zip(matrices, stages, strict=True):
        if stage.inner == 1:
            state = state.reshape(-1, stage.k) @ a.T
        else:
            state = a @ state.reshape(-1, stage.k, stage.inner)
    return state.reshape(len(x), -1) + bias


def graph_of(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def measured(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds: median, fastest and slowest; and MiB at the peak beyond what was there."""
    for _ in range(WARM):
        call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    marks = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        marks.append((first, last))
    torch.cuda.synchronize()
    times = [first.elapsed_time(last) for first, last in marks]
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {
        "median_ms": statistics.median(times),
        "best_ms": min(times),
        "worst_ms": max(times),
        "peak_mib": peak,
    }


def contenders(layer: TTLinear, dense: nn.Linear, batch: int) -> dict[str, dict[str, Any]]:
    """For each name, the two calls, and whether tf32 is on."""
    x = torch.randn(batch, dense.in_features, device="cuda")
    gy = torch.randn(batch, dense.out_features, device="cuda")
    stages = plan_of(layer, batch)
    matrices = matrices_of(layer, stages)
    wanted = [a.clone().requires_grad_() for a in matrices]
    bias = layer.bias
    followed = x.clone().requires_grad_()

    def pair(module: nn.Module) -> dict[str, Callable[[], Any]]:
        operands = [followed, *module.parameters()]

        def forward() -> Tensor:
            with torch.no_grad():
                return module(x)

        return {
            "forward": forward,
            "forward+backward": lambda: torch.autograd.grad(module(followed), operands, gy),
        }

    def bare() -> Tensor:
        with torch.no_grad():
            return chain(x, matrices, stages, bias)

    def bare_back() -> Any:
        y = chain(followed, wanted, stages, bias)
        return torch.autograd.grad(y, [followed, *wanted, bias], gy)

    bares = {"forward": bare, "forward+backward": bare_back}
    return {
        "dense": pair(dense),
        "dense, tf32": pair(dense),
        "TTLinear": pair(layer),
        "TTLinear, tf32": pair(layer),
        "chain": bares,
        "chain, tf32": bares,
        "graph": {"forward": lambda: graph_of(pair(layer)["forward"])},
    }


def distance(layer: TTLinear) -> float:
    """How far the output for a few vectors is from that of the CPU in float64, relatively."""
    x = torch.randn(4, layer.in_features, device="cuda")
    twin = TTLinear(INS, OUTS, layer.ranks, dtype=torch.float64)
    twin.load_state_dict(layer.state_dict())
    with torch.no_grad():
        exact = twin(x.cpu().double())
        found = layer(x).cpu().double()
        other = chain(x, matrices_of(layer, plan_of(layer, 4)), plan_of(layer, 4), layer.bias)
    assert torch.dist(other.cpu().double(), exact) < 1e-4 * exact.norm(), "the chain is another"
    return float(torch.dist(found, exact) / exact.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="where torch_cuda.json is written")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--rank", type=int, default=4)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device here: nothing to measure")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    layer = TTLinear(INS, OUTS, options.rank, device="cuda")
    dense = nn.Linear(25088, 4096, device="cuda")
    error = distance(layer)
    record: dict[str, Any] = {
        "machine": {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "ttcore": ttcore.__version__,
        },
        "layer": {"in_modes": INS, "out_modes": OUTS, "ranks": layer.ranks},
        "repeats": options.repeats,
        "error": error,
        "rows": [],
    }
    print(f"{record['machine']}\n25088 -> 4096, ranks {layer.ranks}; error {error:.1e}")
    print(f"{'batch':>6} {'':17}{'':16}{'ms, median':>12}{'best':>10}{'worst':>10}{'peak MiB':>10}")
    assert error < 1e-5, "not what the CPU computes"
    for batch in options.batches:
        for name, calls in contenders(layer, dense, batch).items():
            torch.set_float32_matmul_precision("high" if "tf32" in name else "highest")
            for what, call in calls.items():
                try:
                    run = call().replay if name == "graph" else call
                    row = {**measured(run, options.repeats), "error": None}
                except RuntimeError as failure:  # out of memory, say: the others go on
                    row = {"error": str(failure).split("\n", maxsplit=1)[0]}
                record["rows"].append({"batch": batch, "name": name, "what": what, **row})
                shown = row["error"] or (
                    f"{row['median_ms']:12.4f}{row['best_ms']:10.4f}{row['worst_ms']:10.4f}"
                    f"{row['peak_mib']:10.1f}"
                )
                print(f"{batch:6} {what:17}{name:16}{shown}", flush=True)
                run = None
        torch.set_float32_matmul_precision("highest")
        torch.cuda.empty_cache()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "torch_cuda.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
