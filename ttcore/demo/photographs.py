"""Part 1: photographs as tensor trains; error asked, error got, size."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import ttcore as tt
from ttcore.demo.report import Report
from ttcore.factorise import near_equal_modes, prime_factors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Splits = tuple[int, ...]

__all__ = ["interleave", "show", "uninterleave"]

_EPS = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
_SHOWN = (0.2, 0.1, 0.05)  # of which a reconstruction is drawn


@dataclass(frozen=True, slots=True)
class _Result:
    """One photograph in one layout at one eps."""

    eps: float
    error: float  # measured on the expanded train
    numbers: int
    compression: float
    photo: np.ndarray  # the reconstruction


def show(report: Report, *, quick: bool) -> None:
    """Decompose a grey and a colour photograph in several layouts over a range of eps."""
    from skimage import data

    step = 4 if quick else 1
    report.title("1. Photographs: ask for an error, get a size")
    report.say(
        "TT-SVD turns an array into a train whose relative error (Frobenius norm) is at most the "
        "eps asked for; the smaller the eps, the larger the train. How small the train gets "
        "depends on which axes the array has. The same photograph is tried as it is; in blocks: "
        "three modes, each a place inside the block of the mode before; and quantised: the binary "
        "digits of row and column, paired, give modes of 4."
    )
    curves: dict[str, list[_Result]] = {}
    for name in ("camera", "astronaut"):
        photo: np.ndarray = getattr(data, name)()[::step, ::step] / 255.0
        side = photo.shape[0]
        layouts: dict[str, Splits] = {
            "as it is": (side,),
            "blocks": near_equal_modes(side, 3),
            "quantised": prime_factors(side),
        }
        found: dict[str, list[_Result]] = {}
        for layout, splits in layouts.items():
            array = photo if len(splits) == 1 else interleave(photo, splits)
            label = f"{name}, {layout}"
            report.say(f"\n{label}: modes {' x '.join(map(str, array.shape))}")
            found[layout] = [_decompose(array, eps, splits, photo.shape) for eps in _EPS]
            _tabulate(report, found[layout], photo.size)
            report.results.setdefault("photographs", {})[label] = {
                "modes": array.shape,
                "eps": [r.eps for r in found[layout]],
                "error": [r.error for r in found[layout]],
                "numbers": [r.numbers for r in found[layout]],
            }
            curves[label] = found[layout]
        figure = _gallery(name, photo, {k: v for k, v in found.items() if k != "quantised"})
        report.picture(figure, f"{name}.png", f"The {name} rebuilt from trains of several sizes")
    report.picture(_curves(curves), "errors-and-sizes.png", "Error asked, error got, and size")
    _conclude(report, curves)


def interleave(photo: np.ndarray, splits: "Splits") -> np.ndarray:
    """Split both sides of a square photograph and pair the pieces: mode k is (row k, column k).

    Parameters
    ----------
    photo : (n, n, ...) array
        Further axes, such as colour, stay last.
    splits : tuple of int
        Factors of ``n``, most significant first.

    Returns
    -------
    (s_1**2, ..., s_d**2, ...) array
        The first mode says in which large block a pixel is, the last where in the smallest.
    """
    d, rest = len(splits), photo.shape[2:]
    paired = [axis for k in range(d) for axis in (k, d + k)]
    colour = [2 * d + k for k in range(len(rest))]
    split = photo.reshape(*splits, *splits, *rest)
    return split.transpose(*paired, *colour).reshape(*(s * s for s in splits), *rest)


def uninterleave(array: np.ndarray, splits: "Splits", shape: tuple[int, ...]) -> np.ndarray:
    """Undo `interleave`: the photograph of shape ``shape``."""
    d, rest = len(splits), shape[2:]
    pairs = array.reshape(*(s for s in splits for _ in range(2)), *rest)
    colour = [2 * d + k for k in range(len(rest))]
    return pairs.transpose(*range(0, 2 * d, 2), *range(1, 2 * d, 2), *colour).reshape(shape)


def _decompose(array: np.ndarray, eps: float, splits: "Splits", shape: tuple[int, ...]) -> _Result:
    train = tt.from_dense(array, eps=eps)
    back = train.to_dense()
    error = float(np.linalg.norm(back - array) / np.linalg.norm(array))
    return _Result(
        eps, error, train.num_params, train.compression, uninterleave(back, splits, shape)
    )


def _tabulate(report: Report, results: list[_Result], size: int) -> None:
    report.table(
        ["error asked", "error got", "numbers kept", f"of {size:,}", "compression"],
        [
            [
                f"{r.eps:g}",
                f"{r.error:.4f}",
                f"{r.numbers:,}",
                f"{100 * r.numbers / size:.2f} %",
                f"{r.compression:,.1f}",
            ]
            for r in results
        ],
    )


def _conclude(report: Report, curves: dict[str, list[_Result]]) -> None:
    at = _EPS.index(0.1)
    whole, blocks = curves["camera, as it is"][at], curves["camera, blocks"][at]
    kept = all(r.error <= r.eps for results in curves.values() for r in results)
    report.say(
        f"\nEvery error got is {'at most' if kept else 'NOT at most'} the error asked. At an error "
        f"of 0.1 the camera keeps {whole.numbers:,} numbers as a matrix (its truncated SVD) and "
        f"{blocks.numbers:,} as a train of blocks: the choice of modes matters. At 0.01 hardly "
        "anything is saved: the grain of a photograph has no low rank. Trains are for arrays that "
        "have structure, and the error curve shows how much there is."
    )


def _gallery(name: str, photo: np.ndarray, found: dict[str, list[_Result]]) -> "Figure":
    """Draw the original at the left, reconstructions at the right: a row per layout."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    grid = figure.add_gridspec(2, 3 + len(_SHOWN), width_ratios=[1, 1, 0.08, *(1 for _ in _SHOWN)])
    axes = figure.add_subplot(grid[:, :2])
    _draw(axes, photo, f"{name}: {photo.size:,} numbers")
    for row, (layout, results) in enumerate(found.items()):
        shown = [r for r in results if r.eps in _SHOWN]
        for column, r in enumerate(shown, start=3):
            axes = figure.add_subplot(grid[row, column])
            _draw(
                axes,
                r.photo,
                f"error {r.error:.3f}: {r.numbers:,} numbers\n{r.compression:.1f} times fewer",
            )
            if column == 3:
                axes.set_ylabel(layout, fontsize=12)
    return figure


def _draw(axes: Any, photo: np.ndarray, title: str) -> None:
    axes.imshow(photo.clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _curves(curves: dict[str, list[_Result]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    marks = {"as it is": "o", "blocks": "s", "quantised": "^"}
    colours = {"camera": "tab:blue", "astronaut": "tab:orange"}
    for label, results in curves.items():
        name, layout = label.split(", ")
        style = {"color": colours[name], "marker": marks[layout], "label": label, "markersize": 5}
        style["linestyle"] = {"as it is": "--", "blocks": "-", "quantised": ":"}[layout]
        left.plot([r.eps for r in results], [r.error for r in results], **style)
        right.plot([r.error for r in results], [1 / r.compression for r in results], **style)
    left.plot(_EPS, _EPS, color="black", linewidth=1)
    left.annotate("got = asked", (_EPS[3], _EPS[3]), (-70, 12), textcoords="offset points")
    left.set(title="The error got stays below the error asked", xlabel="error asked (eps)")
    left.set_ylabel("error got")
    right.set(
        title="What an error costs",
        xlabel="error got",
        ylabel="numbers kept, of those of the array",
    )
    right.axhline(1, color="black", linewidth=1)
    right.legend()
    errors = [f"{e:g}" for e in _EPS]
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.set_xticks(_EPS, errors)
    left.set_yticks(_EPS, errors)
    right.set_yticks([1, 0.1, 0.01, 0.001], ["100 %", "10 %", "1 %", "0.1 %"])
    for axes in (left, right):
        axes.minorticks_off()
    return figure
