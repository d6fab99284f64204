"""P3 once more: TT-SVD of arrays of slowly decaying singular values, of norm 1, in float64."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from contest import contest
from table import Row
from trains import memory

import ttcore as tt

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
TEMPERATURES = DATA / "science" / "era5_t2m_uk_2019_03.npz"
WINDS = DATA / "science" / "eraint_uvz.npz"
SCAN = DATA / "science" / "mri_example4d.npz"
PHOTOGRAPHS = DATA / "cifar10" / "cifar10_exact_subset.npz"
Field = tuple[str, np.ndarray]


def cases(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    with rivals.in_double():
        yield from _hilbert(quick, say)
        yield from _real(quick, say)


def hilbert(order: int, mode: int) -> np.ndarray:
    """1 / (i_1 + … + i_d), i_k from 1 to n, scaled to norm 1."""
    total = sum(np.ogrid[tuple(slice(1.0, mode + 1.0) for _ in range(order))])
    np.reciprocal(total, out=total)
    total /= np.linalg.norm(total)
    return total


def _hilbert(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    peer: str | None = None  # the fastest for the small array; the large one takes others minutes
    for mode in (8, 12) if quick else (16, 32):
        a = hilbert(5, mode)
        work = f"TT-SVD of 1/(i1+…+i5), {mode}^5"
        fastest = []
        for eps in (1e-4, 1e-8, 1e-12):
            rows, name = _decompose(f"{work}, eps {eps:g}", a, eps, peer, quick, say)
            yield from rows
            fastest.append(name)
        if mode == 32 and sys.platform == "linux":
            yield memory(work, a, peer, None)
        peer = fastest[1]


def _decompose(
    work: str, a: np.ndarray, eps: float, only: str | None, quick: bool, say: Callable[[str], None]
) -> tuple[list[Row], str | None]:
    """All peers, or one that is called only once, since it takes long."""
    peers = rivals.decompositions(a, eps, tt.from_dense(a, eps=eps).ranks)
    if only is not None:
        peers = {only: peers[only]}

    def error(train: tt.TTTensor) -> float:
        difference = train.to_dense()
        difference -= a
        return float(np.linalg.norm(difference))

    ours: dict[str, Callable[[], Any]] = {"ttcore": lambda: tt.from_dense(a, eps=eps).cores}
    keep = 1.5 if only is None else 0.0
    rounds = 2 if quick else 5
    return contest("P3", work, ours, peers, error=error, eps=eps, say=say, keep=keep, rounds=rounds)


def _real(quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    if all(path.exists() for path in (TEMPERATURES, WINDS, SCAN, PHOTOGRAPHS)):
        fields = _measured()
    elif rivals.load("skimage") is not None:
        say("P3: there is no ../shared/data; photographs of scikit-image in its place")
        fields = _photographs()
    else:
        say("P3: no real arrays: there is neither ../shared/data nor scikit-image")
        return
    for name, field in fields:
        a = field / np.linalg.norm(field)
        modes = "×".join(map(str, a.shape))
        for eps in (1e-1,) if quick else (1e-1, 1e-2):
            work = f"TT-SVD of {name} ({modes}), eps {eps:g}"
            yield from _decompose(work, a, eps, None, quick, say)[0]
        if quick:
            return


def _measured() -> Iterator[Field]:
    """Volumes, and a stack of photographs; sides cropped to lengths that split into 2 to 8."""
    with np.load(TEMPERATURES) as file:
        kelvin = file["t2m"][:720, :32, :48].astype(float)  # 30 days of hours, latitude, longitude
    yield "temperatures", (kelvin - kelvin.mean()).reshape(5, 6, 4, 6, 4, 8, 6, 8)
    with np.load(WINDS) as file:
        winds = np.stack([file[k] * file[f"{k}_scale"] + file[f"{k}_offset"] for k in "uv"])
    winds = winds[:, :, :, :240]  # component, month, level, latitude, longitude
    yield "winds", winds.reshape(2, 2, 3, 5, 6, 8, 6, 8, 2, 5)
    with np.load(SCAN) as file:
        scan = file["volume"].astype(float)  # (128, 96, 24, 2)
    yield "a scan of a head", scan.reshape(4, 4, 8, 3, 4, 8, 3, 8, 2)
    with np.load(PHOTOGRAPHS) as file:
        images = file["x_train"][:500] / 255.0  # image, row, column, colour
    yield "500 photographs", images.reshape(4, 5, 5, 5, 4, 8, 4, 8, 3)


def _photographs() -> Iterator[Field]:
    from skimage import data

    for name in ("camera", "astronaut"):
        photo = getattr(data, name)() / 255.0  # (512, 512), in colour (512, 512, 3)
        yield f"a photograph ({name})", photo.reshape(8, 8, 8, 8, 8, 8, *photo.shape[2:])
