import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")

from ttcore import demo
from ttcore.cli import main
from ttcore.demo.photographs import interleave, uninterleave
from ttcore.demo.report import Report

PICTURES = {"camera.png", "astronaut.png", "errors-and-sizes.png", "digits.png", "vgg.png"}
WITHOUT_NETWORK = """
import sys

def refuse(event, args):
    if event.startswith("socket.") and event != "socket.gethostname":
        raise RuntimeError(f"the demo reached for the network: {event}")

sys.addaudithook(refuse)
from ttcore.cli import main
sys.exit(main(["demo", "--quick", "--output", "made/here"]))
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Folder and output of a quick run in a process that may not open sockets."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "made" / "here", done.stdout


def test_the_demo_needs_no_network_and_says_what_it_does(quick):
    folder, out = quick
    assert {p.name for p in folder.iterdir()} == PICTURES | {"summary.md", "summary.json"}
    for words in ("1. Photographs", "2. Digits", "3. The largest layer of VGG", "Done in"):
        assert words in out
    assert max(map(len, out.splitlines())) < 100


def test_the_pictures_show_something(quick):
    from matplotlib.image import imread

    for name in PICTURES:
        pixels = imread(quick[0] / name)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05


def test_the_summary_has_the_text_and_every_picture(quick):
    text = (quick[0] / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# ttcore demo\n")
    assert "| error asked | error got |" in text
    assert all(f"({name})" in text for name in PICTURES)


def test_the_numbers_of_the_demo_keep_the_promises(quick):
    results = json.loads((quick[0] / "summary.json").read_text(encoding="utf-8"))
    photographs = results["photographs"]
    assert len(photographs) == 6
    for found in photographs.values():
        assert all(got <= asked for got, asked in zip(found["error"], found["eps"], strict=True))
        assert found["numbers"] == sorted(found["numbers"])  # less error, more numbers
    digits = results["digits"]
    assert digits["TT"]["weights"] * 20 < digits["dense"]["weights"]
    # 4 epochs of the quick run: both networks are well on the way
    assert min(digits[name]["accuracy"][-1] for name in digits) > 0.9
    timings = results["vgg"]["timings"]
    assert [t["batch"] for t in timings] == [1, 100]
    assert all(t["error"] < 1e-5 for t in timings)  # float32, some hundred operations


def test_interleave_pairs_the_digits_of_row_and_column():
    photo = np.arange(12 * 12 * 3).reshape(12, 12, 3)
    array = interleave(photo, (2, 3, 2))
    assert array.shape == (4, 9, 4, 3)
    for row, column in [(0, 0), (7, 2), (11, 4)]:
        pairs = zip(
            *(np.unravel_index(i, (2, 3, 2)) for i in (row, column)), (2, 3, 2), strict=True
        )
        index = tuple(r * n + c for r, c, n in pairs)
        np.testing.assert_array_equal(array[index], photo[row, column])
    np.testing.assert_array_equal(uninterleave(array, (2, 3, 2), photo.shape), photo)


def test_missing_packages_name_the_extra(tmp_path, monkeypatch, capsys):
    absent = {"sklearn", "skimage"}
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in absent else object())
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "ttcore demo: error: the demo needs scikit-learn, scikit-image; install with "
        'pip install "ttcore[demo]"\n'
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert "file: File exists" in capsys.readouterr().err


def test_tables_line_up_on_the_screen_and_in_markdown(tmp_path, capsys):
    report = Report(tmp_path)
    report.table(["a", "long head"], [["1", "2"], ["wide cell", "3"]])
    report.write()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  a          long head",
        "  ---------  ---------",
        "  1                  2",
        "  wide cell          3",
    ]
    assert "| a         | long head |\n| --------- | --------: |\n" in (
        tmp_path / "summary.md"
    ).read_text(encoding="utf-8")
