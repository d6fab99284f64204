"""`bench/experiments`: readers, records and page. What trains is tested beside torch."""

import gzip
import io
import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "bench" / "experiments"))

import images  # noqa: E402
import page  # noqa: E402
import records  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.tobytes()


def pictures(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape), np.uint8)


@pytest.mark.parametrize("place", ["", "mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_its_four_files(tmp_path, place, packed):
    parts = (pictures(7, 28, 28), np.arange(7, dtype=np.uint8), pictures(3, 28, 28))
    parts = (*parts, np.array([9, 0, 1], np.uint8))
    (tmp_path / place).mkdir(exist_ok=True)
    for name, array in zip(NAMES, parts, strict=True):
        raw = gzip.compress(idx(array)) if packed else idx(array)
        (tmp_path / place / f"{name}-ubyte{'.gz' * packed}").write_bytes(raw)
    found = images.mnist(tmp_path)
    stored = (found.x[..., 0], found.y, found.x_test[..., 0], found.y_test)
    assert all(np.array_equal(a, b) for a, b in zip(stored, parts, strict=True))
    assert found.x.dtype == np.uint8
    assert found.y.dtype == np.int64


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"train-images-idx3-ubyte\.gz"):
        images.mnist(tmp_path)
    with pytest.raises(SystemExit, match=r"test_batch\.bin, test_batch, cifar10_jpeg\.npz"):
        images.cifar10(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x0d\x01\0\0\0\0")
    with pytest.raises(SystemExit, match="no idx file of bytes"):
        images.read_idx(path)


def cifar_files(folder, x, y):
    """The same 12 pictures as binary and as Python batches: two in each of six."""
    planes = x.transpose(0, 3, 1, 2).reshape(len(x), 3072)
    for inner in ("bin", "py"):
        (folder / inner / f"cifar-10-batches-{inner}").mkdir(parents=True)
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = slice(2 * k, 2 * k + 2)
        both = np.concatenate([y[rows, None].astype(np.uint8), planes[rows]], axis=1)
        (folder / "bin" / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(both.tobytes())
        batch = {b"data": planes[rows], b"labels": y[rows].tolist(), b"batch_label": b"one"}
        raw = pickle.dumps(batch, protocol=2)
        (folder / "py" / "cifar-10-batches-py" / name).write_bytes(raw)


def test_binary_and_python_batches_hold_the_same_pictures(tmp_path):
    x, y = pictures(12, 32, 32, 3), np.arange(12) % 10
    cifar_files(tmp_path, x, y)
    for form in ("bin", "py"):
        found = images.cifar10(tmp_path / form)
        assert np.array_equal(np.concatenate([found.x, found.x_test]), x)
        assert np.array_equal(np.concatenate([found.y, found.y_test]), y)
        assert found.note == "CIFAR-10"


def test_jpegs_are_read_and_said_to_be_lossy(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="JPEGs need Pillow")
    x = np.empty((6, 32, 32, 3), np.uint8)
    x[:] = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40  # an even grey loses nothing
    files = []
    for picture in x:
        file = io.BytesIO()
        image.fromarray(picture).save(file, "JPEG", quality=100)
        files.append(file.getvalue())
    stored = {"jpeg": np.frombuffer(b"".join(files), np.uint8)}
    stored |= {"offsets": np.cumsum([0, *map(len, files)])}
    stored |= {"y_train": np.arange(4, dtype=np.uint8), "y_test": np.array([9, 8], np.uint8)}
    np.savez(tmp_path / "cifar10_jpeg.npz", **stored)
    found = images.cifar10(tmp_path)
    assert np.array_equal(found.x, x[:4])
    assert np.array_equal(found.x_test, x[4:])
    assert (found.y.tolist(), found.y_test.tolist()) == ([0, 1, 2, 3], [9, 8])
    assert "lossy" in found.note


@pytest.mark.parametrize("call", [os.mkdir, np.fromfile])
def test_a_batch_that_would_call_anything_is_refused(tmp_path, call):
    class Harmful:
        def __reduce__(self):
            return call, (str(tmp_path / "made"),)

    cifar_files(tmp_path, pictures(12, 32, 32, 3), np.arange(12) % 10)
    batch = tmp_path / "py" / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(pickle.dumps({b"data": Harmful(), b"labels": []}, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=f"{call.__name__} has no business"):
        images.cifar10(tmp_path / "py")
    assert not (tmp_path / "made").exists()


def test_digits_stand_in_for_both_data_sets():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    found = images.mnist(None)
    assert found.x.shape == (1437, 28, 28, 1)
    assert found.x_test.shape == (360, 28, 28, 1)
    assert found.padded(32).x.shape == (1437, 32, 32, 1)
    assert np.array_equal(found.padded(32).x[:, 2:-2, 2:-2], found.x)
    assert images.cifar10(None).x.shape == (1437, 32, 32, 3)
    assert set(found.y) == set(found.y_test) == set(range(10))
    assert "digits" in found.note
    held = found.held_out()
    assert len(held.x_test) == 1437 // 6
    assert np.array_equal(np.concatenate([held.x, held.x_test]), found.x)
    assert "left out" in held.note


def test_the_real_mnist_is_whole():
    if not (SHARED / "mnist").is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    found = images.mnist(SHARED)
    assert (found.x.shape, found.x_test.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(found.y).tolist() == counts


def test_records_are_read_as_they_were_written(tmp_path):
    record = {"step": 3, "history": [{"step": 3, "error": 1 / 3}], "note": "×"}
    records.write(tmp_path / "some.json", record)
    expected = {**record, "history": [{"step": 3, "error": 0.33333}]}
    assert records.read_all(tmp_path) == {"some": expected}
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]  # nothing temporary


def test_a_failed_write_leaves_the_old_record(tmp_path):
    records.write(tmp_path / "some.json", {"step": 1})
    with pytest.raises(TypeError):
        records.write(tmp_path / "some.json", {"step": object()})
    assert json.loads((tmp_path / "some.json").read_text()) == {"step": 1}


def test_times_are_medians_and_minima_of_parts_and_sums():
    found = records.milliseconds([[1, 2, 3], [2, 3, 1], [3, 2, 2]])
    assert found["forward"] == {"median": 2000, "best": 1000}
    assert found["update"] == {"median": 2000, "best": 1000}
    assert found["step"] == {"median": 6000, "best": 6000}


def test_the_page_shows_the_records():
    text = page.PAGE.read_text(encoding="utf-8")
    found = records.read_all(page.RECORDS)
    between = text.split(page.BEGIN)[1].split(page.END)[0]
    again = "python bench/experiments page"
    assert between.strip() == page.measured(found), f"run `{again}`"
    for link in re.findall(r"\]\(#([\w-]+)\)", between):
        assert re.search(rf"^#+ {link}$", text, re.MULTILINE | re.IGNORECASE), link


def test_the_page_says_what_was_made_on_a_gpu():
    found = records.read_all(page.RECORDS)
    name, before = "mnist-dense", page.measured(found).count("GPU")
    found[name]["machine"]["gpu"] = "Some GPU"
    text = page.measured(found)
    assert re.search(rf"^\* processor: GPU: Some GPU; its host: .*\({name}\)$", text, re.MULTILINE)
    assert "| dense 1024 → 1024 → 10, on a GPU |" in text
    assert text.count("GPU") == 3 + before


def test_every_record_is_on_the_page():
    shown = {*page.PERCEPTRONS, *page.WIDE, page.COMPRESSED, f"{page.COMPRESSED}-dense"}
    assert set(records.read_all(page.RECORDS)) <= shown


def test_the_page_is_rewritten_between_its_marks_only(tmp_path):
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    path = tmp_path / "page.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    page.write(page.RECORDS, path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{page.BEGIN}\n\n* processor")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text
    assert (tmp_path / "experiments-mnist.svg").stat().st_size < 60_000
