import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

import ttcore as tt
from ttcore import display, plotting
from ttcore.orthogonal import spectra
from ttcore.testing import (
    dense,
    gamma,
    orthogonal_sum,
    representation_size,
    tt_matrices,
    tt_tensors,
)

# the spectra, which need no Matplotlib


def check_spectra(x, array, bound):
    """Singular values times the norm are those of the unfoldings, to an absolute ``bound``."""
    found = x.spectra()
    norm = float(np.linalg.norm(array))
    assert len(found) == len(x.cores) - 1
    for k, values in enumerate(found, start=1):
        rows = int(np.prod(array.shape[:k]))
        exact = np.linalg.svd(array.reshape(rows, -1), compute_uv=False)
        assert values.dtype == np.finfo(x.dtype).dtype
        assert values.shape[0] <= min(x.ranks[k], len(exact))
        assert (np.diff(values) <= 0).all()
        full = np.zeros_like(exact)
        full[: len(values)] = values
        assert np.abs(full * norm - exact).max() <= bound
        if norm > bound:
            np.testing.assert_allclose(np.linalg.norm(values), 1, rtol=gamma(x.dtype, x))


# Backward errors of the two sweeps and of LAPACK: each of the 2 d factorisations errs by a modest
# multiple, here 4, of its operations times u, relative to the size of the representation. The norm
# by which the values are scaled errs as much.


@given(tt_tensors())
def test_spectra_are_the_singular_values_of_the_unfoldings(x):
    wide = np.complex128 if np.iscomplexobj(x.cores[0]) else np.float64
    bound = 4 * len(x.cores) * gamma(x.dtype, x) * representation_size(x)
    check_spectra(x, dense(x).astype(wide), bound)


@given(tt_matrices())
def test_spectra_of_a_matrix_are_those_of_its_pairs_of_modes(W):
    flat = tt.TTTensor([g.reshape(g.shape[0], -1, g.shape[-1]) for g in W.cores])
    for values, same in zip(W.spectra(), flat.spectra(), strict=True):
        np.testing.assert_array_equal(values, same)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_known_singular_values_are_found_to_machine_precision(dtype):
    known = np.array([1.0, 1e-3, 1e-7, 1e-12])
    x = tt.TTTensor(orthogonal_sum(known, (5, 4, 6, 5), rng=np.random.default_rng(0), dtype=dtype))
    for values in x.spectra():
        # one unit of roundoff of the norm for each of some hundred operations
        np.testing.assert_allclose(values, known / np.linalg.norm(known), atol=100 * 2.0**-53)


def test_spectra_of_a_sum_see_the_ranks_that_it_needs():
    x = tt.random((4, 5, 6), 3, rng=0)
    for once, twice in zip(x.spectra(), (x + x).spectra(), strict=True):
        np.testing.assert_allclose(twice[: len(once)], once, atol=1e-14)  # some hundred roundoffs
        assert (twice[len(once) :] < 1e-14).all()


def test_spectra_of_two_thousand_cores_are_finite_and_know_no_scale():
    x = tt.random((3,) * 2000, 4, rng=0)
    reference = x.spectra()
    assert len(reference) == 1999
    for scale in (1e-30, 1e30):
        found = tt.TTTensor([g * scale for g in x.cores]).spectra()
        assert max(abs(np.linalg.norm(values) - 1) for values in found) < 1e-14
        # 4,000 factorisations, each of some ten roundoffs
        for values, same in zip(found, reference, strict=True):
            np.testing.assert_allclose(values, same, atol=4e4 * 2.0**-53)


def test_values_that_are_tiny_beside_both_factors_are_not_lost():
    """Each side is of unit size, their product is not: its squares are below float32's range."""
    g = np.diag([1, 1e-30]).astype("float32").reshape(1, 4, 1)
    left = np.array([[[1, 0], [0, 1e-30]]], "float32")
    right = np.array([[[1e-30], [0]], [[0], [1]]], "float32")
    (values,) = spectra((left, right))
    np.testing.assert_allclose(values, [0.5**0.5] * 2, rtol=1e-6)
    assert spectra((g,)) == ()


def test_spectra_of_zero_are_zero_and_of_one_core_none():
    assert [values.tolist() for values in tt.zeros((3, 4, 5)).spectra()] == [[0.0], [0.0]]
    assert tt.ones((7,)).spectra() == ()


def test_spectra_refuse_nan_by_name():
    x = tt.TTTensor([np.ones((1, 2, 1)), np.full((1, 2, 1), np.nan)])
    with pytest.raises(tt.TTValueError, match="core 1 holds NaN or Inf"):
        x.spectra()


def test_spectra_of_other_libraries_come_as_numpy_arrays():
    xp = pytest.importorskip("array_api_strict")
    cores = tt.random((3, 4, 5), 2, rng=0).cores
    found = tt.TTTensor([xp.asarray(g) for g in cores]).spectra()
    for values, same in zip(found, tt.TTTensor(cores).spectra(), strict=True):
        assert type(values) is np.ndarray
        np.testing.assert_allclose(values, same, atol=1e-14)  # another QR


# the pictures


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def words(ax):
    return [text.get_text() for text in ax.texts]


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


TRAINS = {
    "tensor": tt.random((4, 50, 6), (1, 3, 13, 1), rng=0),
    "matrix": tt.random_matrix((2, 7, 8), (40, 5, 1), (1, 9, 128, 1), rng=0),
    "one core": tt.ones((3,)),
    "long": tt.random((4,) * 2000, 30, rng=0),
}


@pytest.mark.parametrize("train", TRAINS.values(), ids=TRAINS)
def test_a_plot_has_the_modes_and_the_ranks(plt, train):
    ax = train.plot()
    modes = [g.shape[1:-1] for g in train.cores]
    assert words(ax) == [text.text for text in display.draw(modes, train.ranks).texts]
    if len(modes) <= display.SHOWN:
        numbers = [str(n) for n in (*sum(modes, ()), *train.ranks[1:-1])]
        assert set(numbers) <= set(words(ax))


@pytest.mark.parametrize("train", TRAINS.values(), ids=TRAINS)
def test_nothing_is_drawn_outside_the_picture(plt, train):
    ax = train.plot()
    figure = ax.figure
    figure.canvas.draw()
    frame = figure.bbox.padded(1)
    for artist in (*ax.texts, *ax.patches):
        box = artist.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1


@pytest.mark.parametrize("train", TRAINS.values(), ids=TRAINS)
def test_texts_do_not_overlap_each_other(plt, train):
    _, axes = plt.subplots(1, 2, figsize=(6, 3))
    for ax in (train.plot(), train.plot(axes[0])):
        ax.figure.canvas.draw()
        boxes = [text.get_window_extent() for text in ax.texts]
        for i, box in enumerate(boxes):
            assert box.count_overlaps(boxes[i + 1 :]) == 0


def test_plots_use_the_axes_that_they_are_given(plt):
    _, axes = plt.subplots(1, 2)
    assert TRAINS["tensor"].plot(axes[0]) is axes[0]
    assert TRAINS["matrix"].plot_spectra(ax=axes[1]) is axes[1]


def test_thicker_lines_are_larger_ranks(plt):
    bonds = [p for p in TRAINS["matrix"].plot().patches if p.get_width() > p.get_height()]
    heights = {p.get_height() for p in bonds}
    assert {display.thickness(9), display.thickness(128)} <= heights


def test_spectra_are_drawn_a_line_for_each_bond_relative_to_the_largest(plt):
    x = TRAINS["tensor"]
    ax = x.plot_spectra()
    assert ax.get_yscale() == "log"
    assert labels(ax) == ["bond 1, rank 3", "bond 2, rank 6"]  # 13 are more than a mode of 6 uses
    for line, values in zip(ax.lines, x.spectra(), strict=True):
        assert line.get_xdata().tolist() == list(range(1, len(values) + 1))
        np.testing.assert_array_equal(line.get_ydata(), values / values[0])


def test_many_bonds_get_a_colour_bar(plt):
    x = tt.random((2,) * 30, 5, rng=0)
    ax = x.plot_spectra()
    (lines,) = ax.collections
    assert len(lines.get_segments()) == 29
    assert lines.get_array().tolist() == list(range(1, 30))
    assert ax.get_legend() is None
    assert [other.get_ylabel() for other in ax.figure.axes if other is not ax] == ["bond"]
    low, high = ax.get_ylim()
    assert low < min(s[-1] / s[0] for s in x.spectra())
    assert high >= 1


def test_the_noise_is_marked_where_it_is_near(plt):
    known = [1.0, 1e-15]
    x = tt.TTTensor(orthogonal_sum(known, (3, 4), rng=np.random.default_rng(0)))
    assert "machine epsilon" in labels(x.plot_spectra())
    assert "machine epsilon" not in labels(TRAINS["tensor"].plot_spectra())


@pytest.mark.parametrize(
    ("train", "what"),
    [
        (tt.zeros((3, 4)), "all singular values are zero"),
        (tt.ones((3,)), "a single core has no bonds"),
    ],
)
def test_spectra_with_nothing_to_draw_say_so(plt, train, what):
    ax = train.plot_spectra()
    ax.figure.canvas.draw()
    assert words(ax) == [what]


def test_plots_on_a_dark_ground_are_light(plt):
    with plt.style.context("dark_background"):
        ax = TRAINS["tensor"].plot()
        assert {text.get_color() for text in ax.texts} == {"white"}


@pytest.mark.parametrize("method", ["plot", "plot_spectra"])
def test_without_matplotlib_the_extra_is_named(monkeypatch, method):
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "ttcore\[plot\]"'):
        getattr(TRAINS["tensor"], method)()


def test_matplotlib_is_loaded_by_the_first_plot_only():
    code = """
import sys, ttcore as tt
tt.ones((3, 4))._repr_html_(); tt.ones((3, 4)).spectra()
print("matplotlib" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
