import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ttcore
from ttcore.cli import main
from ttcore.cli.screen import in_bytes
from ttcore.io import npz
from ttcore.io.npz import load_npz
from ttcore.matrix import TTMatrix
from ttcore.tensor import TTTensor


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smooth(*shape, dtype=float):
    """Array of low rank: the sum of its indices, and 1."""
    return (sum(np.ogrid[tuple(slice(n) for n in shape)]) + 1).astype(dtype)


def assert_close(train, wanted):
    """Up to what eps=None discards and rounding: some hundred units of roundoff of the norm."""
    assert np.linalg.norm(train.to_dense() - wanted) <= 1e-13 * np.linalg.norm(wanted)


def refused(capsys, argv, *messages):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"ttcore {argv[0]}: error: ")
    assert len(err.splitlines()) == 1
    for message in messages:
        assert message in err


# --- compress


def test_an_array_becomes_a_tensor_with_its_own_modes(capsys):
    np.save("a.npy", smooth(6, 5, 4))
    assert main(["compress", "a.npy"]) == 0
    (train,) = load_npz("a.tt.npz").values()
    assert isinstance(train, TTTensor)
    assert train.shape == (6, 5, 4)
    assert train.ranks == (1, 2, 2, 1)
    assert_close(train, smooth(6, 5, 4))
    out = capsys.readouterr().out
    assert "a: float64 array (6, 5, 4) -> TT-tensor (6, 5, 4)" in out
    assert "error asked  machine precision" in out
    assert re.search(r"error got    \S+e-1[5-9] \(measured\)|error got    0 ", out)
    assert "ranks        1 2 2 1" in out
    assert "wrote a.tt.npz" in out


def test_eps_bounds_the_error_and_shrinks_the_train(capsys):
    array = np.random.default_rng(0).standard_normal((8, 8, 8))
    np.save("a.npy", array)
    assert main(["compress", "a.npy", "--eps", "0.5"]) == 0
    (train,) = load_npz("a.tt.npz").values()
    error = np.linalg.norm(train.to_dense() - array) / np.linalg.norm(array)
    assert 0.1 < error <= 0.5
    out = capsys.readouterr().out
    assert "error asked  0.5" in out
    assert float(re.search(r"error got    (\S+)", out)[1]) == pytest.approx(error, rel=1e-2)


def test_max_rank_wins_over_eps(capsys):
    np.save("a.npy", np.random.default_rng(0).standard_normal((8, 8, 8)))
    assert main(["compress", "a.npy", "--eps", "1e-3", "--max-rank", "3"]) == 0
    (train,) = load_npz("a.tt.npz").values()
    assert train.ranks == (1, 3, 3, 1)
    assert "error asked  0.001, ranks up to 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("modes", "shape"), [("auto", (4, 4, 4, 5)), ("8,10,4", (8, 10, 4)), ("320", (320,))]
)
def test_modes_reshape_first(modes, shape):
    np.save("a.npy", smooth(64, 5))
    assert main(["compress", "a.npy", "--modes", modes]) == 0
    (train,) = load_npz("a.tt.npz").values()
    assert train.shape == shape
    assert_close(train, smooth(64, 5).reshape(shape))


def test_automatic_modes_of_a_single_number():
    np.save("a.npy", np.ones((1, 1)))
    assert main(["compress", "a.npy", "--modes", "auto"]) == 0
    assert load_npz("a.tt.npz")["a"].shape == (1,)


@pytest.mark.parametrize(
    ("options", "rows", "cols"),
    [
        (["--matrix"], (4, 4, 4), (5, 4, 4)),
        (["--row-modes", "2,32", "--col-modes", "8,10"], (2, 32), (8, 10)),
    ],
)
def test_a_matrix_becomes_a_tt_matrix(options, rows, cols):
    np.save("a.npy", smooth(64, 80))
    assert main(["compress", "a.npy", *options]) == 0
    train = load_npz("a.tt.npz")["a"]
    assert isinstance(train, TTMatrix)
    assert (train.row_modes, train.col_modes) == (rows, cols)
    assert_close(train, smooth(64, 80))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", ">f4"])
def test_dtypes_are_kept(capsys, dtype):
    np.save("a.npy", smooth(4, 5).astype(dtype) * (1j if "complex" in dtype else 1))
    assert main(["compress", "a.npy"]) == 0
    assert load_npz("a.tt.npz")["a"].dtype == np.dtype(dtype).newbyteorder("=")
    assert "converted" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dtype", "kept"), [("int16", "float64"), ("bool", "float64"), ("float16", "float32")]
)
def test_other_numbers_are_converted_and_that_is_said(capsys, dtype, kept):
    np.save("a.npy", (smooth(4, 5) % 3).astype(dtype))
    assert main(["compress", "a.npy"]) == 0
    assert load_npz("a.tt.npz")["a"].dtype == kept
    assert f"computed in  {kept}, converted from {dtype}" in capsys.readouterr().out


def test_fortran_order_does_not_matter():
    np.save("a.npy", np.asfortranarray(smooth(6, 5, 4)))
    assert main(["compress", "a.npy", "--modes", "6,20"]) == 0
    assert_close(load_npz("a.tt.npz")["a"], smooth(6, 5, 4).reshape(6, 20))


def archive(path="m.npz"):
    arrays = {
        "w": smooth(16, 16, dtype="float32"),
        "b": smooth(7),
        "z\\ 50% ä\0\n/": smooth(4, 4) * 1j,
        "text": np.array("hello"),
        "objects": np.array([{}], dtype=object),
        "empty": np.zeros((3, 0)),
        "number": np.array(3.0),
        "long": np.zeros(3, np.longdouble),
    }
    # numpy.savez lets an odd name through only as far as zipfile does
    np.savez(path, **{k.replace("\0", ""): v for k, v in arrays.items()})


def test_every_array_of_numbers_of_an_archive_becomes_a_train(capsys):
    archive()
    assert main(["compress", "m.npz"]) == 0
    trains = load_npz("m.tt.npz")
    assert list(trains) == ["w", "b", "z\\ 50% ä\n/"]
    assert [str(t.dtype) for t in trains.values()] == ["float32", "float64", "complex128"]
    out, err = capsys.readouterr()
    assert r"'z\\ 50% ä\n/': complex128 array (4, 4) -> TT-tensor (4, 4)" in out
    assert "left out: 'text' has " in err
    assert "left out: 'objects' holds Python objects, which are never unpickled" in err
    assert "left out: 'empty' has shape (3, 0)" in err
    assert "left out: 'number' has shape ()" in err


def test_keys_choose_arrays():
    archive()
    assert main(["compress", "m.npz", "--key", "b", "--key", "w", "--key", "b"]) == 0
    assert list(load_npz("m.tt.npz")) == ["b", "w"]


def test_matrix_leaves_arrays_of_other_orders_as_tensors():
    archive()
    assert main(["compress", "m.npz", "--matrix"]) == 0
    kinds = [type(train) for train in load_npz("m.tt.npz").values()]
    assert kinds == [TTMatrix, TTTensor, TTMatrix]


def test_a_train_larger_than_its_array_is_remarked_on(capsys):
    np.save("a.npy", np.random.default_rng(0).standard_normal((8, 8)))
    assert main(["compress", "a.npy"]) == 0
    assert "larger than the array: try a larger --eps" in capsys.readouterr().out


def test_output_names_the_file_and_replaces_it(folder):
    np.save("a.npy", smooth(4, 4))
    Path("out.bin").write_bytes(b"old")
    assert main(["compress", "a.npy", "-o", "out.bin"]) == 0
    assert load_npz("out.bin")["a"].shape == (4, 4)
    assert sorted(p.name for p in folder.iterdir()) == ["a.npy", "out.bin"]


# --- the progress bar


def test_progress_is_shown_when_asked_and_on_terminals_only(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    np.save("a.npy", smooth(4, 4))
    main(["compress", "a.npy"])
    assert capsys.readouterr().err == ""
    main(["compress", "a.npy", "--progress"])
    assert "100%" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["compress", "a.npy"])
    assert "100%" in capsys.readouterr().err
    main(["compress", "a.npy", "--no-progress"])
    assert capsys.readouterr().err == ""


def test_progress_without_tqdm_is_a_note(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    np.save("a.npy", smooth(4, 4))
    assert main(["compress", "a.npy", "--progress"]) == 0
    assert 'pip install "ttcore[cli]"' in capsys.readouterr().err


# --- what is refused


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_the_input_is_never_overwritten(capsys, link):
    np.save("a.npy", smooth(4, 4))
    before = Path("a.npy").read_bytes()
    output = "a.npy" if link == "same" else "b.npy"
    if link == "hard":
        os.link("a.npy", output)
    elif link == "symbolic":
        Path(output).symlink_to("a.npy")
    refused(capsys, ["compress", "a.npy", "-o", output], "is the input itself; choose another name")
    assert Path("a.npy").read_bytes() == before


def test_missing_files_and_folders_are_named(capsys):
    refused(capsys, ["compress", "no.npy"], "no.npy: No such file or directory; check the path")
    refused(capsys, ["info", "no.npy"], "no.npy: No such file or directory; check the path")
    np.save("a.npy", smooth(4, 4))
    for output in (".", "none/out.npz"):
        refused(capsys, ["compress", "a.npy", "-o", output], "expected a file name in a folder")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_keeps_the_old_output(folder, capsys, monkeypatch, error):
    np.save("a.npy", smooth(4, 4))
    Path("a.tt.npz").write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(npz, "_write_entry", fail)
    if isinstance(error, OSError):
        refused(
            capsys, ["compress", "a.npy"], "a.tt.npz cannot be written (No space left on device)"
        )
    else:
        assert main(["compress", "a.npy"]) == 130
        assert capsys.readouterr().err == "ttcore compress: error: interrupted\n"
    assert Path("a.tt.npz").read_bytes() == b"old"
    assert sorted(p.name for p in folder.iterdir()) == ["a.npy", "a.tt.npz"]


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--modes", "3,3"], ["multiply to 9", "'a'", "(4, 6)", "24", "whose product is that"]),
        (["--row-modes", "2,2"], ["--row-modes and --col-modes come together"]),
        (["--col-modes", "2,2"], ["--row-modes and --col-modes come together"]),
        (["--row-modes", "2,3", "--col-modes", "2,3"], ["'a'", "row_modes", "6", "4 rows"]),
        (["--row-modes", "2,2", "--col-modes", "6"], ["'a'", "row_modes", "col_modes"]),
        (["--eps", "-1"], ["'a'", "eps=-1.0"]),
        (["--eps", "nan"], ["'a'", "eps=nan"]),
        (["--max-rank", "0"], ["'a'", "max_rank=0"]),
        (["--key", "x"], ["--key 'x' is not in a.npy; it has 'a'"]),
    ],
)
def test_wrong_options_say_what_came_and_what_is_expected(capsys, options, messages):
    np.save("a.npy", smooth(4, 6))
    refused(capsys, ["compress", "a.npy", *options], *messages)
    assert not Path("a.tt.npz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modes", "4,x"], "'4,x' is no list of modes"),
        (["--row-modes", "4,0", "--col-modes", "2,3"], "'4,0' is no list of modes"),
        (["--modes", "auto", "--matrix"], "not allowed with argument --modes"),
        (["--eps", "small"], "invalid float value"),
    ],
)
def test_what_argparse_refuses_exits_with_two(capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["compress", "a.npy", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"]), "expected floating, complex, integer or boolean numbers"),
        (np.array([{}], dtype=object), "holds Python objects, which are never unpickled"),
        (np.array(3.0), "has shape (); expected at least one axis"),
        (np.zeros((3, 0)), "has shape (3, 0); expected at least one axis, and none of length 0"),
        (np.zeros(3, "datetime64[s]"), "expected floating, complex, integer or boolean numbers"),
        (np.zeros(3, [("x", float)]), "expected floating, complex, integer or boolean numbers"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_that_cannot_become_trains_are_refused(capsys, array, message, suffix):
    np.save("a.npy", array, allow_pickle=True)
    np.savez("a.npz", a=array)
    refused(capsys, ["compress", f"a.{suffix}"], "'a'", message)


@pytest.mark.skipif(np.longdouble().itemsize == 8, reason="longdouble is float64 here")
def test_longdouble_is_refused_by_name(capsys):
    np.save("a.npy", np.zeros(3, np.longdouble))
    refused(capsys, ["compress", "a.npy"], np.dtype(np.longdouble).name, "convert it")


def test_nan_is_refused_with_the_name_of_the_array(capsys):
    np.savez("a.npz", good=smooth(3, 3), bad=np.full((3, 3), np.nan))
    refused(capsys, ["compress", "a.npz"], "'bad' with shape (3, 3)")
    assert not Path("a.tt.npz").exists()


def test_matrix_needs_two_axes(capsys):
    np.save("a.npy", smooth(3, 3, 3))
    refused(capsys, ["compress", "a.npy", "--matrix"], "needs a two-dimensional array", "(3, 3, 3)")
    options = ["--row-modes", "3,3", "--col-modes", "3,1"]
    refused(capsys, ["compress", "a.npy", *options], "'a' with shape (3, 3, 3)")


def test_files_of_other_kinds_are_refused(capsys):
    Path("a.npy").write_text("1, 2, 3")
    refused(capsys, ["compress", "a.npy"], "neither a .npy nor a .npz file", "numpy.save")
    refused(capsys, ["info", "a.npy"], "neither a .npy nor a .npz file")
    np.savez("none.npz")
    refused(capsys, ["compress", "none.npz"], "has no arrays")
    np.save("b.npy", smooth(3, 3))
    main(["compress", "b.npy"])
    capsys.readouterr()
    refused(capsys, ["compress", "b.tt.npz"], "holds trains already; `ttcore info` describes them")


# --- info


def test_info_describes_trains(capsys):
    np.savez("m.npz", w=smooth(16, 16, dtype="float32"), b=smooth(7))
    main(["compress", "m.npz", "--matrix"])
    capsys.readouterr()
    assert main(["info", "m.tt.npz"]) == 0
    out = capsys.readouterr().out
    assert "trains: 2" in out
    assert "w: float32 TT-matrix (16, 16)" in out
    assert "row modes    4 4\n  column modes 4 4\n  ranks        1 2 1\n" in out
    assert "numbers      64 for 256: compression 4\n  bytes        256 B" in out
    assert "b: float64 TT-tensor (7,)\n  modes        7\n" in out
    assert f"norm         {np.linalg.norm(smooth(7)):.6g}" in out


def test_info_describes_plain_arrays(capsys):
    archive()
    assert main(["info", "m.npz"]) == 0
    out = capsys.readouterr().out
    assert "arrays: 8" in out
    assert "w: float32 array (16, 16), 1.024 kB" in out
    assert "objects: Python objects, not read, (1,)" in out
    np.save("a.npy", np.zeros(1000))
    assert main(["info", "a.npy"]) == 0
    assert "a: float64 array (1000,), 8 kB" in capsys.readouterr().out


def test_info_reports_damage(capsys):
    np.save("a.npy", smooth(4, 4))
    main(["compress", "a.npy"])
    capsys.readouterr()
    data = Path("a.tt.npz").read_bytes()
    Path("a.tt.npz").write_bytes(data[: len(data) // 2])
    refused(capsys, ["info", "a.tt.npz"], "a.tt.npz is no .npz archive, or is damaged")


# --- as a program


def program(*argv, code="", **kwargs):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "ttcore", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def test_the_module_runs_as_a_program():
    np.save("a.npy", smooth(4, 4))
    done = program("compress", "a.npy", "--eps", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert program("info", "a.tt.npz").stdout.startswith("a.tt.npz: trains: 1")
    done = program("info", "none")
    assert done.returncode == 2
    assert done.stderr == "ttcore info: error: none: No such file or directory; check the path\n"


def test_a_terminal_without_unicode_gets_escapes():
    np.savez("a.npz", ä=smooth(3))
    done = program(
        "info", "a.npz", env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert done.returncode == 0
    assert "\\xe4: float64" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="pipes as on POSIX")
def test_a_closed_pipe_is_no_error():
    np.save("a.npy", smooth(4, 4))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ttcore", "info", "a.npy"],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [[], ["compress"], ["info"], ["demo"]])
def test_help_exits_with_zero(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: ttcore" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"ttcore {ttcore.__version__}\n"


def test_no_command_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_the_program_starts_without_the_numerics():
    code = """
import sys, ttcore.cli
ttcore.cli._parser()
loaded = {"scipy", "numba", "matplotlib", "sklearn", "skimage", "tqdm", "ttcore.tensor"}
print(sorted(loaded & sys.modules.keys()))
"""
    assert program(code=code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (411041792, "411 MB"), (5e15, "5,000 TB")],
)
def test_bytes_are_readable(n, text):
    assert in_bytes(n) == text
