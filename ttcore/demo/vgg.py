"""Part 3: the largest layer of VGG, 25088 -> 4096, as a TT-matrix and as a dense one."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

import ttcore as tt
from ttcore.demo.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["show"]

# output modes, input modes: as in A. Novikov et al., "Tensorizing Neural Networks", NIPS 2015
_VGG = (4, 4, 4, 4, 4, 4), (2, 7, 8, 8, 7, 4)
_SMALLER = (4, 4, 4, 4, 4), (4, 7, 7, 4, 4)  # 3136 -> 1024
_RANK = 4
_CHECKED = 64  # outputs whose values are compared with float64


@dataclass(frozen=True, slots=True)
class _Timing:
    """Median times of one product, and the relative error of the train's."""

    batch: int
    tt_ms: float
    dense_ms: float | None  # None where memory is too small for the dense matrix
    error: float


def show(report: Report, *, quick: bool) -> None:
    """Time the layer against the dense product at two batch sizes, and check its values."""
    row_modes, col_modes = _SMALLER if quick else _VGG
    layer = f"{prod(col_modes)} -> {prod(row_modes)}"
    report.title("3. The largest layer of VGG" + (", scaled down" if quick else ""))
    weight = tt.random_matrix(row_modes, col_modes, _RANK, rng=0, dtype=np.float32)
    megabytes = weight.size * 4 / 1e6
    report.say(
        f"The layer {layer} has {weight.size:,} weights: {megabytes:,.0f} MB in float32. As a "
        f"TT-matrix with modes {col_modes} -> {row_modes} and rank {_RANK} it has "
        f"{weight.num_params:,}, which is {weight.compression:,.0f} times fewer. W.apply "
        "multiplies without ever building the matrix; it is built here only to be compared with."
    )
    dense = _dense(weight, report)  # (4096, 25088)
    timings = [_time(weight, dense, batch) for batch in (1, 100)]
    report.table(
        ["batch", "TT, ms", "dense, ms", "dense / TT", "error"],
        [
            [
                str(t.batch),
                f"{t.tt_ms:.3f}",
                "-" if t.dense_ms is None else f"{t.dense_ms:.2f}",
                "-" if t.dense_ms is None else f"{t.dense_ms / t.tt_ms:.1f}",
                f"{t.error:.1e}",
            ]
            for t in timings
        ],
    )
    report.say(
        f"\nMedians, float32. The error is that of W.apply relative to float64, on {_CHECKED} of "
        f"the {prod(row_modes):,} outputs."
    )
    report.results["vgg"] = {
        "layer": layer,
        "weights": weight.size,
        "tt_weights": weight.num_params,
        "timings": [asdict(t) for t in timings],
    }
    report.picture(_draw(layer, timings), "vgg.png", f"Time of one product with the layer {layer}")


def _dense(weight: tt.TTMatrix, report: Report) -> np.ndarray | None:
    """Build the dense matrix, if memory allows it and what building it takes."""
    needed = 3 * weight.size * weight.dtype.itemsize
    free = _free_memory()
    if free is not None and free < needed:
        report.say(
            f"The dense matrix is left out: it would take {needed / 1e9:.1f} GB for a moment, and "
            f"{free / 1e9:.1f} GB are free."
        )
        return None
    return np.asarray(weight.to_dense())


def _free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(kilobytes[0]) if kilobytes else None


def _time(weight: tt.TTMatrix, dense: np.ndarray | None, batch: int) -> _Timing:
    x = np.random.default_rng(batch).standard_normal((batch, weight.shape[1]), dtype=np.float32)
    picked = np.linspace(0, weight.shape[0] - 1, _CHECKED).astype(int)
    exact = x.astype(np.float64) @ _rows(weight, picked).T  # (batch, 64)
    error = np.linalg.norm(weight.apply(x)[:, picked] - exact) / np.linalg.norm(exact)
    return _Timing(
        batch,
        _milliseconds(lambda: weight.apply(x)),
        None if dense is None else _milliseconds(lambda: x @ dense.T),
        float(error),
    )


def _rows(weight: tt.TTMatrix, picked: np.ndarray) -> np.ndarray:
    """Rows of the matrix in float64, straight from the definition: a product of core slices."""
    rows = []
    for indices in zip(*np.unravel_index(picked, weight.row_modes), strict=True):
        row = np.ones((1, 1))
        for core, i in zip(weight.cores, indices, strict=True):
            row = np.tensordot(row, core[:, i].astype(np.float64), axes=1)  # (done, n, r)
            row = row.reshape(-1, row.shape[-1])
        rows.append(row[:, 0])
    return np.stack(rows)


def _milliseconds(call: Callable[[], object]) -> float:
    """Median time of a call: as many runs as fit in a second, at least 5."""
    call()  # compiles, where anything is compiled
    times: list[float] = []
    while len(times) < 5 or sum(times) < 1:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def _draw(layer: str, timings: list[_Timing]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    names, values = [], []
    for t in reversed(timings):  # bars are drawn from below
        if t.dense_ms is not None:
            names.append(f"batch {t.batch}, dense")
            values.append(t.dense_ms)
        names.append(f"batch {t.batch}, TT")
        values.append(t.tt_ms)
    colours = ["tab:blue" if name.endswith("TT") else "tab:gray" for name in names]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, [f"{v:.3g} ms" for v in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 4)
    axes.set(
        title=f"One product with the layer {layer}, float32", xlabel="milliseconds (log scale)"
    )
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure
