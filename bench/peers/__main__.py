"""One table of ttcore beside its peers; run by `make bench-peers`.

Everything is timed in turns in one process; the table goes to standard output, what happens
meanwhile to standard error, and the table with its description into a page between two markers.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import fields
import layers
import numpy as np
import products
import rivals
import startup
import threadpoolctl
import torch_layers
import trains
from table import Row, markdown, summary, write
from timing import patience

import ttcore as tt

SECTIONS = {
    "layers": layers.cases,
    "torch": torch_layers.cases,
    "trains": trains.cases,
    "fields": fields.cases,
    "products": products.cases,
    "startup": startup.cases,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases, to see that all runs")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    parser.add_argument(
        "--patience",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to wait, in all, for other processes to let the cores alone",
    )
    parser.add_argument("--only", choices=sorted(SECTIONS), nargs="+", help="these sections")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {text}", file=sys.stderr, flush=True)

    start = time.perf_counter()
    patience.left = 0.0 if options.quick else options.patience
    load = os.getloadavg()[0]
    say(f"load average {load:.2f}")
    for line in _machine():
        say(line)
    rows: list[Row] = []
    for name, cases in SECTIONS.items():
        if options.only is None or name in options.only:
            for row in cases(options.quick, say):
                rows.append(row)
                say("  | ".join(row))
    table = markdown(rows)
    print(table, flush=True)
    if options.page:
        now = datetime.now(UTC)
        measured = [
            f"Measured in {now:%B %Y}; load average {load:.2f} before the first call; "
            f"{_waited(options.patience)}.",
            "",
            *(f"* {line}" for line in _machine()),
            "",
            summary(rows),
            "",
            table,
        ]
        write(options.page, "\n".join(measured))
    say(f"done; {_waited(options.patience)}")


def _waited(allowed: float) -> str:
    if patience.left > 0:
        return "what other processes disturbed was measured again"
    return f"after {allowed:.0f} s of waiting for other processes, measured in spite of them"


def _machine() -> Sequence[str]:
    """The machine in generic words, the libraries, and how many threads each may use."""
    vectors = "AVX-512" if "avx512f" in _flags() else "AVX2" if "avx2" in _flags() else "no AVX2"
    blas = {
        f"{pool['internal_api']} {pool['version'] or ''}".strip()
        + f", {pool['num_threads']} threads"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    }
    lines = [
        f"{os.cpu_count()} cores, {platform.machine()}, {vectors}; Python "
        f"{platform.python_version()}",
        f"ttcore {tt.__version__} on NumPy {np.__version__} ({', '.join(sorted(blas))})",
    ]
    peers = ", ".join(f"{name} {number}" for name, number in rivals.versions().items())
    if torch := rivals.load("torch"):
        which = "MKL" if torch.backends.mkl.is_available() else "another BLAS"
        peers += f"; torch uses {which}, {torch.get_num_threads()} threads"
    return [*lines, f"peers: {peers or 'none installed'}"]


def _flags() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return next((line for line in text.splitlines() if line.startswith("flags")), "")


if __name__ == "__main__":
    main()
