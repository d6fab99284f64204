"""P1, P2 and P2b: layers forward, and forward with gradients."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import rivals
from table import UNCLEAR, Row, best, compare
from timing import ROUNDS, Timing, in_turns, peak_bytes

import ttcore as tt
from ttcore.kernels.cpu import buffers
from ttcore.planner import SCRATCH

VGG = (4, 4, 4, 4, 4, 4), (2, 7, 8, 8, 7, 4)
EVEN = (4, 8, 8, 4), (4, 8, 8, 4)
FINE = (4, 4, 4, 4, 4), (4, 4, 4, 4, 4)
WIDE = (8, 8, 6, 8), (4, 4, 6, 8)
TALL = (8, 8, 8, 8, 8, 8), (4, 4, 4, 4, 4, 3)
ODD = (5, 7, 11, 13), (5, 7, 11, 13)
LISTED = [
    *((f"VGG rank {rank}", VGG, rank, (1, 10, 100, 1000)) for rank in (1, 2, 4, 8, 16)),
    ("1024→1024 (4,8,8,4) rank 8", EVEN, 8, (1, 100, 1000)),
    ("1024→1024 (4,4,4,4,4) rank 8", FINE, 8, (1, 100, 1000)),
    ("3072→262144 rank 10", TALL, 10, (1, 100)),
    ("768→3072 rank 16", WIDE, 16, (512,)),
    ("5005→5005 (5,7,11,13) rank 8", ODD, 8, (100,)),
]
LARGEST = 2**29  # bytes of a dense matrix that is still built to be compared with
DENSE = ("dense (NumPy)", "dense (torch)")
MERGED = ("merged chain", "merged chain (bmm)")
PLAIN = ("torch chain", "torch chain (bmm)", "tensorly-torch", "torchTT", "tntorch")


def made(modes: tuple[tuple[int, ...], tuple[int, ...]], rank: int) -> tt.TTMatrix:
    return tt.random_matrix(*modes, rank, rng=0, dtype=np.float32)


def rows(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, length), dtype=np.float32)


def forwards(
    matrix: tt.TTMatrix, x: np.ndarray, weights: np.ndarray | None, only: Any = None
) -> dict[str, Callable[[], Any]]:
    """All contenders, ttcore first; ``weights`` is the dense matrix."""
    batch = len(x)
    found: dict[str, Callable[[], Any]] = {"ttcore": lambda: matrix.apply(x)}
    if weights is not None:
        found[DENSE[0]] = lambda: x @ weights.T
    torch = rivals.load("torch")
    if torch is None:
        return found
    tensor = torch.from_numpy(x)

    def run(forward: Callable[[Any], Any]) -> Any:
        with torch.inference_mode():
            return forward(tensor)

    if weights is not None:
        dense = torch.from_numpy(weights)
        found[DENSE[1]] = partial(run, lambda rows: rows @ dense.T)
    for name, maker in rivals.layers().items():
        if only is None or name in only:
            found[name] = partial(run, maker(matrix, batch)[0])
    return found


def backwards(
    matrix: tt.TTMatrix, x: np.ndarray, gy: np.ndarray, weights: np.ndarray | None
) -> dict[str, Callable[[], Any]]:
    """Forward and gradients of rows and cores: (y, gx, gradients of the cores)."""

    def by_ttcore() -> Any:
        y = tt.linear.matvec(matrix.cores, x)
        gx, gcores = tt.linear.matvec_backward(matrix.cores, x, gy)
        return y, gx, *gcores

    found: dict[str, Callable[[], Any]] = {"ttcore": by_ttcore}
    if weights is not None:
        found[DENSE[0]] = lambda: (x @ weights.T, gy @ weights, gy.T @ x)
    torch = rivals.load("torch")
    if torch is None:
        return found
    upstream = torch.from_numpy(gy)

    def run(forward: Callable[[Any], Any], parameters: list[Any]) -> Any:
        tensor = torch.from_numpy(x).requires_grad_()
        y = forward(tensor)
        return y.detach(), *torch.autograd.grad(y, [tensor, *parameters], upstream)

    if weights is not None:
        dense = torch.from_numpy(weights).requires_grad_()
        found[DENSE[1]] = partial(run, lambda rows: rows @ dense.T, [dense])
    for name, maker in rivals.layers().items():
        found[name] = partial(run, *maker(matrix, len(x)))
    return found


def agree(answers: dict[str, Any]) -> None:
    """Raise unless all contenders found what ttcore found; of gradients every one that compares."""
    ours = answers["ttcore"]
    for name, theirs in answers.items():
        pairs = [(theirs, ours)]
        if isinstance(ours, tuple):
            pairs = list(zip(theirs, ours, strict=False))  # a dense matrix has one gradient
            pairs = pairs[:2] if name in DENSE else pairs
        for found, expected in pairs:
            found = np.asarray(found)  # noqa: PLW2901
            if name == "tntorch" and found.ndim == 4:
                found = found.transpose(0, 2, 1, 3)  # noqa: PLW2901 -- its cores are (r, n, m, r')
            limit = 1e-4 * float(np.abs(expected).max())
            np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    yield from _vgg(quick, say)
    yield from _listed(quick, say)


def _vgg(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    matrix = made(VGG, 4)
    weights = None if quick else matrix.to_dense()
    wanted = {
        ("P1", 1): (150, 4, 2),
        ("P1", 100): (30, 4, 1.5),
        ("P2", 1): (None, 4, 1.5),
        ("P2", 100): (None, 4, 1.5),
    }
    for (target_id, batch), (dense, peer, merged) in wanted.items():
        what = "forward" if target_id == "P1" else "forward + backward"
        say(f"{target_id}: VGG layer, batch {batch}, {what}")
        work = f"VGG layer, batch {batch}, {what}"
        x, gy = rows(batch, matrix.shape[1]), rows(batch, matrix.shape[0])
        if target_id == "P1":
            contenders = forwards(matrix, x, weights)
            if rivals.load("torch") is not None:
                contenders["merged beforehand"] = _premerged(matrix, x)
        else:
            contenders = backwards(matrix, x, gy, weights)
        always = {"ttcore", "merged beforehand", *DENSE, *MERGED}
        timings = in_turns(contenders, check=agree, always=always, rounds=2 if quick else ROUNDS)
        say(shown(timings))
        if not quick:
            yield compare(target_id, work, timings, best(timings, DENSE), dense)
        yield compare(target_id, work, timings, best(timings, PLAIN), peer)
        yield compare(target_id, work, timings, best(timings, MERGED), merged)
        if "merged beforehand" in timings:
            label = "merged chain, cores merged outside the clock"
            yield compare(target_id, work, timings, "merged beforehand", None, label=label)
        if target_id == "P2" and sys.platform == "linux":
            names = [best(timings, PLAIN), best(timings, MERGED)]
            peers = [name for name in names if name is not None]
            yield from _memory("P2", "VGG layer", VGG, 4, batch, peers)


def _premerged(matrix: tt.TTMatrix, x: np.ndarray) -> Callable[[], Any]:
    torch = rivals.load("torch")
    tensor = torch.from_numpy(x)
    forward, _ = rivals.premerged_chain(matrix, len(x))

    def run() -> Any:
        with torch.inference_mode():
            return forward(tensor)

    return run


def shown(timings: dict[str, Timing]) -> str:
    ranking = sorted(timings.items(), key=lambda item: item[1].median)
    return "    " + ", ".join(f"{name} {t.median * 1e3:.3g} ms" for name, t in ranking)


def _listed(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """The bench list: against the fastest of all peers, chains and the dense product."""
    peak = _peak()
    workers = os.cpu_count() or 1
    say(f"P2b: GEMM reaches {peak / 1e9:.0f} GFLOP/s in float32 on {workers} cores")
    for name, modes, rank, batches in LISTED:
        if quick and (rank == 16 or modes not in (FINE, ODD)):
            continue
        matrix = made(modes, rank)
        weights = matrix.to_dense() if 4 * matrix.size <= LARGEST and not quick else None
        still: set[str] | None = None
        for batch in batches[:1] if quick else batches:
            work = f"{name}, batch {batch}"
            say(f"P2b: {work}")
            x = rows(batch, matrix.shape[1])
            contenders = forwards(matrix, x, weights, still)
            if still is not None:  # whoever was out of reach at 100 rows is so at 1000
                contenders = {key: contenders[key] for key in contenders if key in still}
            # where dense is the fastest, the other peers are still to be measured
            always = ("ttcore", *(DENSE if modes in (EVEN, FINE) else ()))
            timings = in_turns(
                contenders, check=agree, always=always, keep=2.5, rounds=2 if quick else 5
            )
            say(shown(timings))
            if batch >= 100:
                still = {key for key, t in timings.items() if len(t.samples) > 1}
            allowed = 4 * matrix.size <= SCRATCH  # the memory rule: no larger dense matrix is built
            others = [k for k in timings if k != "ttcore" and (allowed or k not in DENSE)]
            target = "≥ 1, never < 0.91 ×"
            yield compare("P2b", work, timings, best(timings, others), 0.91, target=target)
            dense = best(timings, DENSE)
            if dense and not allowed and batch < 100:
                label = f"{dense}, beyond the memory rule"
                yield compare("P2b", work, timings, dense, None, label=label)
            if modes in (EVEN, FINE) and batch >= 100 and dense:
                yield compare("P2b", work, timings, dense, 1.0, target="> 1 ×")
            if batch in (100, 512) and not quick and sys.platform == "linux":
                yield from _memory("P2b", name, modes, rank, batch, (PLAIN[0], PLAIN[2]))
            if batch == 100 and (modes == ODD or (modes == VGG and rank == 4)):
                yield _share(work, matrix, batch, timings["ttcore"], peak, modes)


def _peak() -> float:
    """GFLOP/s of NumPy's float32 GEMM, best of some."""
    a = rows(2048, 2048)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times)


def _share(
    work: str, matrix: tt.TTMatrix, batch: int, ours: Timing, peak: float, modes: Any
) -> Row:
    rate = matrix.plan(batch=batch).flops / ours.median
    wanted = 0.5 if modes == ODD else 0.7
    return Row(
        "P2b",
        f"{work}, GFLOP/s",
        "limit: NumPy's GEMM",
        f"{peak / 1e9:.0f}",
        f"{rate / 1e9:.0f}",
        f"{rate / peak:.2f}",
        f"≥ {wanted:g}",
        UNCLEAR if ours.mark else "yes" if rate / peak >= wanted else "no",
    )


def _memory(
    target_id: str, name: str, modes: Any, rank: int, batch: int, peers: Sequence[str]
) -> Iterator[Row]:
    found = {key: extra_memory(key, modes, rank, batch) for key in ["ttcore", *peers]}
    ours = found["ttcore"]
    limit = 2 * (os.cpu_count() or 1)
    judged = target_id == "P2"
    for key in peers:
        yield Row(
            target_id,
            f"{name}, batch {batch}, forward + backward: memory beyond arguments, results",
            key,
            f"{found[key]:.3g} MiB",
            f"{ours:.3g} MiB",
            f"{found[key] / ours:.3g}" if ours else "–",
            f"≤ 2 MiB a worker ({limit} MiB)" if judged else "–",
            ("yes" if ours <= limit else "no") if judged else "–",
        )


def extra_memory(name: str, modes: Any, rank: int, batch: int) -> float:
    """MiB at the peak beyond x, gy, y, gx and the gradients, in a process of its own."""
    task = json.dumps([name, modes, rank, batch])
    command = [sys.executable, __file__, task]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 2**20


def _child(name: str, modes: Any, rank: int, batch: int) -> None:
    for small, count in ((max(1, rank - 1), batch), (rank, 2), (rank, 3)):
        call = _backward_call(name, modes, small, count)
        for _ in range(3):  # loads and starts what is needed, a helper for fast calls too
            call()
    call = _backward_call(name, modes, rank, batch)
    buffers._spare.clear()  # scratch that is kept between calls counts too
    rise, answer = peak_bytes(call)
    print(max(rise - sum(np.asarray(part).nbytes for part in answer), 0))


def _backward_call(name: str, modes: Any, rank: int, batch: int) -> Callable[[], Any]:
    matrix = made(modes, rank)
    x, gy = rows(batch, matrix.shape[1]), rows(batch, matrix.shape[0])
    return backwards(matrix, x, gy, None)[name]


if __name__ == "__main__":
    _child(*json.loads(sys.argv[1]))
