import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ttcore.errors import TTFormatError
from ttcore.io import npz, source
from ttcore.io.npz import holds_trains, load_npz, save_npz
from ttcore.matrix import TTMatrix
from ttcore.tensor import TTTensor

DTYPES = ["float32", "float64", "complex64", "complex128"]


def tensor(modes=(3, 1, 4), rank=2, dtype="float64", seed=0):
    return TTTensor(cores([(n,) for n in modes], rank, dtype, seed))


def matrix(rows=(3, 2), cols=(2, 5), rank=2, dtype="float64", seed=1):
    return TTMatrix(cores(list(zip(rows, cols, strict=True)), rank, dtype, seed))


def cores(modes, rank, dtype, seed):
    rng = np.random.default_rng(seed)
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    made = []
    for k, mode in enumerate(modes):
        core = rng.standard_normal((ranks[k], *mode, ranks[k + 1]))
        if dtype.startswith("complex"):
            core = core + 1j * rng.standard_normal(core.shape)
        made.append(core.astype(dtype))
    return made


def assert_same(got, wanted):
    assert list(got) == list(wanted)
    for name, train in wanted.items():
        assert type(got[name]) is type(train)
        assert len(got[name].cores) == len(train.cores)
        for a, b in zip(got[name].cores, train.cores, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "trains.tt.npz"
    save_npz(path, {"w": matrix(), "t": tensor()})
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("modes", [(5,), (1,), (2, 3), (2, 1, 3, 2)])
def test_round_trip_is_exact(tmp_path, dtype, modes):
    trains = {"t": tensor(modes, dtype=dtype), "m": matrix(modes, modes, dtype=dtype)}
    save_npz(tmp_path / "x", trains)
    assert_same(load_npz(tmp_path / "x"), trains)


def test_round_trip_keeps_nan_inf_and_subnormal_numbers(tmp_path):
    odd = np.array([np.nan, np.inf, -0.0, 5e-324]).reshape(1, 4, 1)
    save_npz(tmp_path / "x", {"": TTTensor([odd])})
    assert load_npz(tmp_path / "x")[""].cores[0].tobytes() == odd.tobytes()


@pytest.mark.parametrize(
    "name",
    ["", " ", "ttcore", "a.b.0", "x.npy", "/abs/../up", "back\\slash", "50%", "%0025", "größe 張量",
     "line\nbreak", "nul\0byte", "lone \ud800 surrogate", "file", "allow_pickle", "n" * 300],
    ids=ascii,
)  # fmt: skip
def test_any_name_survives(tmp_path, name):
    trains = {name: tensor(), name + ".0": matrix(), "other": tensor((2,))}
    save_npz(tmp_path / "x", trains)
    assert_same(load_npz(tmp_path / "x"), trains)


def test_fortran_ordered_and_strided_cores_survive(tmp_path):
    core = np.arange(24.0).reshape(1, 6, 4)
    trains = {"t": TTTensor([np.asfortranarray(core), core.reshape(4, 6, 1)[:, ::2]])}
    save_npz(tmp_path / "x", trains)
    assert_same(load_npz(tmp_path / "x"), trains)


def test_an_empty_mapping_survives(tmp_path):
    save_npz(tmp_path / "x", {})
    assert load_npz(tmp_path / "x") == {}


def test_numpy_alone_reads_the_file(saved):
    with np.load(saved, allow_pickle=False) as archive:
        header = json.loads(str(archive["ttcore"]))
        assert (header["format"], header["version"]) == ("ttcore", 1)
        assert header["trains"][0] == {"name": "w", "kind": "matrix", "cores": 2}
        np.testing.assert_array_equal(archive["w.1"], matrix().cores[1], strict=True)


def test_equal_trains_give_equal_bytes(saved, tmp_path):
    save_npz(tmp_path / "again", {"w": matrix(), "t": tensor()})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_holds_trains_tells_files_apart(saved, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert holds_trains(saved)
    assert not holds_trains(tmp_path / "a.npy")
    assert not holds_trains(tmp_path / "a.npz")


# --- writing whole or not at all


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["second entry", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, monkeypatch, where, error):
    before = saved.read_bytes()
    calls = []

    def fail(*_):
        calls.append(1)
        if where != "second entry" or len(calls) == 2:
            raise error

    if where == "second entry":
        monkeypatch.setattr(npz, "_write_entry", fail)
    elif where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        save_npz(saved, {"new": tensor(), "newer": tensor()})
    monkeypatch.undo()
    assert calls
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


def test_nothing_is_left_where_no_file_was(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(npz, "_write_entry", fail)
    with pytest.raises(OSError, match="No space left"):
        save_npz(tmp_path / "x", {"t": tensor()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="permissions and links as on POSIX")
def test_permissions_and_links_stay(saved):
    saved.chmod(0o640)
    link = saved.with_name("link")
    link.symlink_to(saved.name)
    save_npz(link, {"t": tensor()})
    assert link.is_symlink()
    assert saved.stat().st_mode & 0o777 == 0o640
    assert list(load_npz(saved)) == ["t"]
    mask = os.umask(0o027)
    try:
        save_npz(saved.with_name("fresh"), {"t": tensor()})
    finally:
        os.umask(mask)
    assert saved.with_name("fresh").stat().st_mode & 0o777 == 0o640


# --- damaged and foreign files


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_npz(tmp_path / "none")


def test_every_cut_is_one_format_error(saved, tmp_path):
    whole = saved.read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(TTFormatError, match="cut"):
            load_npz(tmp_path / "cut")


def test_every_altered_byte_is_a_format_error_or_without_effect(saved, tmp_path):
    whole = bytearray(saved.read_bytes())
    wanted = {"w": matrix(), "t": tensor()}
    refused = 0
    for at in range(0, len(whole), 5):
        altered = whole.copy()
        altered[at] ^= 0x15
        (tmp_path / "altered").write_bytes(altered)
        try:
            got = load_npz(tmp_path / "altered")
        except TTFormatError:
            refused += 1
        else:  # a date, a padding byte
            assert_same(got, wanted)
    assert refused > len(whole) // 10


def test_a_header_altered_to_ask_for_less_is_damage(tmp_path):
    save_npz(tmp_path / "x", {"t": tensor((3000, 4), rank=2)})  # more than zipfile reads ahead
    whole = (tmp_path / "x").read_bytes()
    assert whole.count(b"(1, 3000, 2)") == 1
    (tmp_path / "x").write_bytes(whole.replace(b"(1, 3000, 2)", b"(1, 1000, 2)"))
    with pytest.raises(TTFormatError, match=r"'t\.0' is damaged.*CRC"):
        load_npz(tmp_path / "x")


def archive(path, header, **arrays):
    text = header if isinstance(header, str) else json.dumps(header)
    np.savez(path, ttcore=np.array(text), **arrays)
    return path.with_name(path.name + ".npz")


def header(*trains, **changes):
    return {"format": "ttcore", "version": 1, "trains": list(trains)} | changes


ONE = {"name": "a", "kind": "tensor", "cores": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the header is no JSON"),
        ("[" * 10**5, "the header is no JSON"),
        ([], "expected the format 'ttcore', a version and a list of trains"),
        (header(format="other"), "expected the format 'ttcore'"),
        (header(version=2), "has layout version 2, this ttcore reads version 1"),
        (header(trains=3), "expected the format 'ttcore', a version and a list of trains"),
        (header(ONE | {"kind": "tree"}), "expected a name, a kind"),
        (header(ONE | {"cores": 0}), "a number of cores of at least 1"),
        (header({"name": "a"}), "the header lists {'name': 'a'}"),
        (header(ONE | {"cores": 2}), "core 1 of 'a' is missing; the header promises 2 cores"),
        (header(ONE | {"kind": "matrix"}), "the cores of 'a' form no train"),
    ],
)
def test_a_wrong_header_says_what_is_wrong(tmp_path, text, message):
    path = archive(tmp_path / "x", text, **{"a.0": np.zeros((1, 3, 1))})
    with pytest.raises(TTFormatError) as caught:
        load_npz(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("what", ["npz", "npy", "text", "empty"])
def test_foreign_files_are_refused_by_name(tmp_path, what):
    path = tmp_path / "foreign"
    if what == "npz":
        with path.open("wb") as file:
            np.savez(file, x=np.zeros(3))
    elif what == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_text("no archive" if what == "text" else "")
    with pytest.raises(TTFormatError, match=r"foreign is (a|no) \.npz archive"):
        load_npz(path)


def test_pickled_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    path = archive(tmp_path / "x", header(ONE), **{"a.0": np.array([Trap()], dtype=object)})
    with pytest.raises(TTFormatError, match=r"'a\.0' is damaged.*allow_pickle"):
        load_npz(path)
    with source.open_arrays(path) as entries:
        assert "never unpickled" in entries["a.0"].unusable


# --- plain arrays


def test_arrays_are_listed_without_being_read(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, x=np.zeros((3, 4), ">f4"), y=np.zeros(2, np.int8))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as more:
        more.writestr("notes.txt", "not an array")
    with source.open_arrays(tmp_path / "a.npz") as entries:
        assert [(e.name, e.shape, e.dtype) for e in entries.values()] == [
            ("x", (3, 4), np.dtype(">f4")),
            ("y", (2,), np.dtype("i1")),
        ]
        np.testing.assert_array_equal(entries["x"].load(), np.zeros((3, 4)))


def test_a_plain_array_is_mapped_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    with source.open_arrays(tmp_path / "a.npy") as entries:
        array = entries["a"].load()
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    array._mmap.close()


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_cut_array_is_a_format_error(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, np.zeros(1000))
    else:
        np.savez(path, a=np.zeros(1000))
    whole = path.read_bytes()
    for length in (7, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(TTFormatError, match=r"a\.np"), source.open_arrays(path) as entries:
            entries["a"].load()
