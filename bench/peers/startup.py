"""P6: what `import` costs beyond NumPy, and the first call of a process that is not the first."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import rivals
from table import Row, best, compare
from timing import Timing

_IMPORT = """
import time, warnings
import numpy
warnings.simplefilter("ignore")
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""
_CORES = """
import time, warnings
import numpy as np
warnings.simplefilter("ignore")
ranks = 1, 4, 4, 4, 4, 4, 1
modes = (2, 7, 8, 8, 7, 4)
rng = np.random.default_rng(0)
cores = [
    rng.standard_normal((ranks[k], 4, n, ranks[k + 1])).astype("f") for k, n in enumerate(modes)
]
x = np.ones((1, 25088), "f")
start = time.perf_counter()
"""
_FIRST = {
    "ttcore": """
import ttcore as tt
tt.TTMatrix(cores).apply(x)
""",
    "torch.einsum": """
import torch
tensors = [torch.from_numpy(core) for core in cores]
where = "xabcdef,ghai,ijbk,klcm,mndo,opeq,qrfs->xhjlnpr"
torch.einsum(where, torch.from_numpy(x).reshape(1, *modes), *tensors)
""",
    "torchTT": """
import torch, torchtt
layer = torchtt.nn.LinearLayerTT(list(modes), [4] * 6, list(ranks))
layer(torch.from_numpy(x).reshape(1, *modes))
""",
    "tensorly-torch": """
import torch, tltorch
layer = tltorch.FactorizedLinear(
    modes, (4,) * 6, bias=False, factorization="blocktt", rank=ranks, implementation="factorized"
)
layer(torch.from_numpy(x))
""",
}
_NEEDS = {"torch.einsum": "torch", "torchTT": "torchtt", "tensorly-torch": "tltorch"}
_PRINT = "print(time.perf_counter() - start)\n"


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    rounds = 1 if quick else 7
    say("P6: import")
    modules = ["ttcore", *(name for name in rivals.PACKAGES if rivals.load(name) is not None)]
    timings = _timed({name: _IMPORT.format(module=name) for name in modules}, rounds)
    yield _row("import, over NumPy", timings, 0.15)
    say("P6: the first call of a later process")
    programs = {
        name: _CORES + code + _PRINT
        for name, code in _FIRST.items()
        if name == "ttcore" or rivals.load(_NEEDS[name]) is not None
    }
    timings = _timed(programs, rounds)
    yield _row("a later process: import and first VGG layer at batch 1, over NumPy", timings, 0.5)


def _timed(programs: dict[str, str], rounds: int) -> dict[str, Timing]:
    """Each program in a process of its own, in turns; the first round only fills caches."""
    samples: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            command = [sys.executable, "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name}: {done.stderr}")
            if turn:
                samples[name].append(float(done.stdout.split()[-1]))
    return {name: Timing(times) for name, times in samples.items()}


def _row(work: str, timings: dict[str, Timing], limit: float) -> Row:
    peer = best(timings, [name for name in timings if name != "ttcore"])
    row = compare("P6", work, timings, peer, None, target=f"≤ {limit:g} s")
    return row._replace(met="yes" if timings["ttcore"].median <= limit else "no")
