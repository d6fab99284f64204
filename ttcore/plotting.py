"""Pictures of trains by Matplotlib, which is imported when one is drawn."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from ttcore import display

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PER_INCH = 80.0  # units of the drawing in a figure of our own: its texts are then 10.8 points high
_LISTED = 8  # bonds that a legend lists; more of them get a colour bar


def plot_train(modes: display.Modes, ranks: Sequence[int], ax: "Axes | None" = None) -> "Axes":
    """Draw a train: what `ttcore.display.draw` makes of it.

    Parameters
    ----------
    modes : sequence of d tuples
        Of one mode each, or of a row and a column mode.
    ranks : sequence of d + 1 int
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure. Its limits, aspect and frame are set.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ModuleNotFoundError
        Without Matplotlib; names the extra that brings it.
    """
    _check_matplotlib()
    from matplotlib.patches import FancyBboxPatch, Rectangle

    picture = display.draw(modes, ranks)
    width, height = picture.width, picture.bottom - picture.top
    if ax is None:
        size = 72.0 / _PER_INCH
        ax = _new_axes(width / _PER_INCH + 0.1, height / _PER_INCH + 0.1)
    else:
        room = ax.get_window_extent()
        pixels = min(room.width / width, room.height / height)
        size = min(pixels * 72.0 / ax.figure.dpi, 0.9)
    for line in picture.lines:
        across, down = line.x1 - line.x0, line.y1 - line.y0
        corner = (line.x0, line.y0 - line.thickness / 2)
        if down:
            corner, across = (line.x0 - line.thickness / 2, line.y0), line.thickness
        else:
            down = line.thickness
        ax.add_patch(Rectangle(corner, across, down, facecolor="C0", alpha=0.45, linewidth=0))
    for box in picture.boxes:
        style = "round,pad=0,rounding_size=6"
        shape = ((box.x, box.y), box.width, box.height)
        ax.add_patch(FancyBboxPatch(*shape, style, facecolor="C0", alpha=0.15, linewidth=0))
        ax.add_patch(
            FancyBboxPatch(*shape, style, fill=False, edgecolor="C0", linewidth=1.5 * size)
        )
    for text in picture.texts:
        ax.text(
            text.x,
            text.y,
            text.text,
            fontsize=(10 if text.faint else 12) * size,
            alpha=0.75 if text.faint else None,
            horizontalalignment="center",
            verticalalignment="baseline",
        )
    ax.set(xlim=(0, width), ylim=(picture.bottom, picture.top), aspect="equal")
    ax.set_axis_off()
    return ax


def plot_spectra(spectra: Sequence[np.ndarray[Any, Any]], ax: "Axes | None" = None) -> "Axes":
    """Draw singular values, a line for each bond, relative to the largest one of the bond.

    Parameters
    ----------
    spectra : sequence of d - 1 real arrays
        Descending; entry k - 1 belongs to bond k.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ModuleNotFoundError
        Without Matplotlib; names the extra that brings it.
    """
    _check_matplotlib()
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    ax = _new_axes(6.0, 4.0) if ax is None else ax
    ax.set(yscale="log", xlabel="number of the singular value", ylabel="relative to the largest")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    curves = [_relative(values) for values in spectra]
    if not any(map(len, curves)):
        what = "all singular values are zero" if curves else "a single core has no bonds"
        ax.text(0.5, 0.5, what, ha="center", transform=ax.transAxes)
        return ax
    scale = Normalize(1, max(len(curves), 2))
    # without its ends, which are lost on a black and on a white ground
    colours = ListedColormap(colormaps["viridis"](np.linspace(0.15, 0.9, 256)))
    if len(curves) <= _LISTED:
        for k, curve in enumerate(curves, start=1):
            name = f"bond {k}, rank {len(spectra[k - 1])}"
            ax.plot(curve[:, 0], curve[:, 1], ".-", color=colours(scale(k)), label=name)
    else:
        lines = LineCollection(curves, cmap=colours, norm=scale, linewidths=1.0)
        lines.set_array(np.arange(1, len(curves) + 1))
        ax.add_collection(lines)
        ax.figure.colorbar(lines, ax=ax, label="bond")
    _mark_noise(ax, float(np.finfo(spectra[0].dtype).eps), min(c[-1, 1] for c in curves if len(c)))
    ax.autoscale_view()
    if len(curves) <= _LISTED:
        ax.legend()
    return ax


def _mark_noise(ax: "Axes", eps: float, smallest: float) -> None:
    """Mark the machine epsilon, where the values come near it."""
    if smallest < 100 * eps:
        ax.axhline(eps, color="0.5", linestyle=":", label="machine epsilon")


def _relative(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Points (number from 1, value over the largest) of the nonzero values."""
    kept = values[values > 0]
    return np.column_stack([np.arange(1, len(kept) + 1), kept / kept[:1]])


def _new_axes(width: float, height: float) -> "Axes":
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def _check_matplotlib() -> None:
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            'plots need Matplotlib; install it with pip install "ttcore[plot]"', name="matplotlib"
        )
