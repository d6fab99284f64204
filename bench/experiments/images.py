"""Images and labels from standard files, or scikit-learn's digits where there are none.

Needs NumPy; Pillow for CIFAR-10 as JPEG, scikit-learn for the digits.
"""

import gzip
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """uint8 images (n, height, width, channels) and int64 labels (n,), to train and to test."""

    note: str  # what they are, for the record
    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]

    def padded(self, side: int) -> "Images":
        """Zeros around every image, as many on each side."""
        width = (side - self.x.shape[1]) // 2
        around = ((0, 0), (width, width), (width, width), (0, 0))
        return replace(self, x=np.pad(self.x, around), x_test=np.pad(self.x_test, around))

    def held_out(self) -> "Images":
        """The last sixth of the training set in place of the test set, to choose settings by."""
        first = len(self.x) - len(self.x) // 6
        note = f"{self.note}; tested on the last sixth of the training set, which was left out"
        return Images(note, self.x[:first], self.y[:first], self.x[first:], self.y[first:])


def mnist(folder: Path | None) -> Images:
    """28 x 28 x 1: the four idx files, with or without ``.gz``; digits three times as large."""
    if folder is None:
        return digits(3).padded(28)
    parts = []
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        found = _first(folder, ("", "mnist"), (f"{name}-ubyte.gz", f"{name}-ubyte"))
        parts.append(read_idx(found))
    x, y, x_test, y_test = parts
    return Images(
        "MNIST", x[..., None], y.astype(np.int64), x_test[..., None], y_test.astype(np.int64)
    )


def cifar10(folder: Path | None) -> Images:
    """32 x 32 x 3: the binary or the Python batches, or JPEGs in one npz; digits in grey."""
    if folder is None:
        grey = digits(4)
        x, x_test = (np.repeat(images, 3, axis=3) for images in (grey.x, grey.x_test))
        return replace(grey, x=x, x_test=x_test)
    for inner, last, read in _CIFAR:
        for place in (folder / inner, folder / "cifar10" / inner, folder):
            if (place / last).is_file():
                return read(place)
    names = ", ".join(last for _, last, _ in _CIFAR)
    raise SystemExit(f"no CIFAR-10 in {folder}: looked for one of {names} there and in subfolders")


def digits(scale: int) -> Images:
    """scikit-learn's 1,797 digits of 8 x 8, every pixel ``scale`` times; every fifth is a test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = (found.images * (255 / 16)).astype(np.uint8).repeat(scale, axis=1).repeat(scale, axis=2)
    y = found.target.astype(np.int64)
    test = np.arange(len(x)) % 5 == 0
    note = f"scikit-learn's digits, 8 x 8, pixels {scale} x {scale} times (no --data)"
    return Images(note, x[~test][..., None], y[~test], x[test][..., None], y[test])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the format of MNIST: 0, 0, 8, order; sizes; data."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path.name} is no idx file of bytes: it begins with {raw[:4]!r}")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes)


def _first(folder: Path, inner: Sequence[str], names: Sequence[str]) -> Path:
    for place in inner:
        for name in names:
            if (folder / place / name).is_file():
                return folder / place / name
    raise SystemExit(f"neither {' nor '.join(names)} in {folder}, nor in its folder {inner[-1]}")


def _cifar_binary(folder: Path) -> Images:
    def read(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        rows = np.fromfile(folder / f"{name}.bin", np.uint8).reshape(-1, 3073)
        return _channels_last(rows[:, 1:]), rows[:, 0].astype(np.int64)

    return _batches(read)


def _cifar_python(folder: Path) -> Images:
    def read(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        with (folder / name).open("rb") as file:
            batch = _Arrays(file, encoding="bytes").load()
        return _channels_last(batch[b"data"]), np.array(batch[b"labels"], np.int64)

    return _batches(read)


class _Arrays(pickle.Unpickler):
    """Of a pickle, what the batches need: arrays. Others could run any program."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_reconstruct": np._core.multiarray._reconstruct,
            "ndarray": np.ndarray,
            "dtype": np.dtype,
            "encode": lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them
        }
        if not module.startswith(("numpy", "_codecs")) or name not in known:
            raise pickle.UnpicklingError(f"{module}.{name} has no business in a batch of CIFAR-10")
        return known[name]


def _cifar_jpeg(folder: Path) -> Images:
    from PIL import Image

    with np.load(folder / "cifar10_jpeg.npz") as stored:
        data, at = stored["jpeg"].tobytes(), stored["offsets"].tolist()
        y, y_test = (stored[key].astype(np.int64) for key in ("y_train", "y_test"))
    x = np.stack(
        [np.asarray(Image.open(io.BytesIO(data[a:b])).convert("RGB")) for a, b in pairwise(at)]
    )
    note = "CIFAR-10, every image stored as a JPEG (lossy, about 30 dB)"
    return Images(note, x[: len(y)], y, x[len(y) :], y_test)


def _batches(read: Callable[[str], tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> Images:
    x, y = zip(*(read(f"data_batch_{k}") for k in range(1, 6)), strict=True)
    return Images("CIFAR-10", np.concatenate(x), np.concatenate(y), *read("test_batch"))


def _channels_last(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


_CIFAR: tuple[tuple[str, str, Callable[[Path], Images]], ...] = (
    ("cifar-10-batches-bin", "test_batch.bin", _cifar_binary),
    ("cifar-10-batches-py", "test_batch", _cifar_python),
    ("cifar10", "cifar10_jpeg.npz", _cifar_jpeg),
)
