"""TT-SVD of a file larger than memory should hold: seconds to read it, seconds to decompose it.

    python bench/outofcore.py FILE [--gib 16] [--rounds 2]

A file of rank 16 and noise 1e-10 is written once, and read by fresh processes: in blocks of 16 MiB
by plain reads, and by ``tt.from_dense`` of a memmap. The page cache is asked to forget the file
before each, unless --warm. Memory is what the process had at its peak.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import ttcore as tt

MEASURE = """
import json, os, resource, sys, time
import numpy as np
import ttcore as tt

path, shape, what = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
warm = tt.random((4,) * 10, 16, rng=0).to_dense()
tt.from_dense(np.float64(warm), eps=1e-8)  # kernels come from their cache on disk
mapped = np.memmap(path, np.float64, "r", shape=tuple(shape))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
answer = {}
if what == "read":
    buffer = bytearray(2**24)
    with open(path, "rb", buffering=0) as file:
        for _ in range(mapped.nbytes // 2**24):
            file.readinto(buffer)
else:
    t, info = tt.from_dense(mapped, eps=1e-8, full_output=True)
    answer = {"rank": max(t.ranks), "error": info.error}
answer["seconds"] = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer.update(peak_mib=peak / 1024, above_mib=(peak - before) / 1024)
print(json.dumps(answer))
"""


def shape_of(count):
    return (2,) * (count % 2) + (4,) * (count // 2)


def write(path, shape, rank=16, noise=1e-10):
    """A tensor of that rank, plus noise."""
    cores = tt.random(shape, rank, rng=0).cores
    left, middle, right = (joined(part) for part in (cores[:-10], cores[-10:-5], cores[-5:]))
    grain = np.random.default_rng(0).standard_normal((middle.shape[1], right.shape[1])) * noise
    with path.open("wb") as file:
        for shift, row in enumerate(left[0]):
            block = np.tensordot(row, middle, 1) @ right[:, :, 0]
            block += np.roll(grain, 7 * shift)
            file.write(block.data)
        os.fsync(file.fileno())


def joined(cores):
    """The product of neighbouring cores, (r, n_1 ... n_k, s)."""
    x = cores[0]
    for core in cores[1:]:
        x = np.tensordot(x, core, 1).reshape(x.shape[0], -1, core.shape[2])
    return x


def measured(path, shape, what, warm):
    if not warm and hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), json.dumps(shape), what],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("file", type=Path, help="written if it is not there, and left there")
    options.add_argument("--gib", type=float, default=16)
    options.add_argument("--warm", action="store_true", help="leave the page cache as it is")
    options.add_argument("--rounds", type=int, default=1)
    args = options.parse_args()
    count = round(np.log2(args.gib * 2**27))
    if not args.file.exists():
        write(args.file, shape_of(count))
    for _ in range(args.rounds):
        for what in ("read", "ttcore"):
            found = measured(args.file, shape_of(count), what, args.warm)
            print(what, {k: round(v, 2) if k != "error" else v for k, v in found.items()})
            if what == "ttcore":
                assert found["rank"] == 16
                assert found["error"] <= 1e-8


if __name__ == "__main__":
    main()
