"""What is kept of a run: a JSON file, and a plot of its curves. Needs no torch to read."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write(path: Path, record: Mapping[str, Any]) -> None:
    """As JSON, with five digits."""
    replace_text(path, json.dumps(_rounded(record), indent=1) + "\n")


def read_all(folder: Path) -> dict[str, Record]:
    """The records of a folder by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def milliseconds(times: Sequence[Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median and minimum over all steps, of each part and of the sum.

    Where other processes disturb many steps, the minimum is the better guess.
    """
    forward, backward, update = zip(*times, strict=True)
    parts = {"forward": forward, "backward": backward, "update": update}
    parts["step"] = tuple(map(sum, times))
    return {
        name: {"median": 1e3 * statistics.median(found), "best": 1e3 * min(found)}
        for name, found in parts.items()
    }


def machine(device: str = "cpu") -> dict[str, Any]:
    """In generic words, and the versions that matter; the name of the GPU where one was used."""
    import torch

    import ttcore

    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}
    return gpu | {
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, {vectors}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ttcore": ttcore.__version__,
    }


def plot(path: Path, records: Mapping[str, Record], *, against: str = "epoch") -> None:
    """Loss and error of one run or of several, as an image of the suffix of ``path``."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    options = {"svg.fonttype": "none", "svg.hashsalt": "ttcore", "font.size": 9}
    with mpl.rc_context(options):
        fig, (losses, errors) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        for name, record in records.items():
            history = record["history"]
            unit = record["steps_per_epoch"] if against == "epoch" else 1
            x = [point["step"] / unit for point in history]
            (line,) = losses.semilogy(x, [p["train_loss"] for p in history], lw=1)
            losses.semilogy(x, [p["loss"] for p in history], ":", lw=1, color=line.get_color())
            errors.plot(x, [p["error"] for p in history], lw=1, label=name)
        losses.set(xlabel=against, ylabel="loss (dotted: test)")
        errors.set(xlabel=against, ylabel="test error, %")
        errors.legend(fontsize=7, frameon=False)
        low = min(p["error"] for record in records.values() for p in record["history"])
        errors.set_ylim(0.9 * low, 3 * low + 1)
        new = path.with_name(f"{path.stem}.{os.getpid()}.tmp{path.suffix}")
        fig.savefig(new, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(fig)
    os.replace(new, path)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is whole whenever somebody reads it."""
    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
