"""How a train looks: a drawing of its cores, bonds and legs, and HTML with SVG for notebooks.

A core is a box, a line between two boxes a bond, a line that ends free a leg. The thickness of a
line grows with the logarithm of its rank or mode: the heavy parts of the drawing are those that
cost. A leg that points down is a mode of a tensor or a column mode, one that points up a row mode.
"""

import math
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from ttcore.cores import digits, short

Modes = Sequence[tuple[int, ...]]
"""For each core ``(n,)``, or ``(m, n)`` for a row and a column mode."""

SHOWN = 12
"""Number of cores that are drawn; of longer trains, only the first and the last ones are."""

_BOX, _LEG, _GAP, _MARGIN = 36.0, 14.0, 76.0, 6.0
_CHARACTER = 7.2  # width of a digit, in the drawing's font size of 12

# Texts have the colour of the text around them, whatever the ground. The accent is that of
# Jupyter's theme, or else a blue that is legible on white and on black: prefers-color-scheme would
# be wrong wherever a page and the system disagree, as a light notebook on a dark desktop.
_ACCENT = "var(--jp-brand-color1,#3d85c6)"
_FIGURE = "margin:0.4em 0;padding:0;color:var(--jp-content-font-color1,currentColor)"
_CAPTION = "margin:0.4em 0 0;padding:0;font-size:0.92em;line-height:1.5;text-align:left"
_FAINT = ' opacity="0.75" font-size="10"'
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"


class Line(NamedTuple):
    """A bond or a leg."""

    x0: float
    y0: float
    x1: float
    y1: float
    thickness: float


class Box(NamedTuple):
    """A core; ``x`` and ``y`` are its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Text(NamedTuple):
    """A text whose baseline has its middle at ``x``, ``y``; a faint one is secondary."""

    x: float
    y: float
    text: str
    faint: bool = False


class Drawing(NamedTuple):
    """What is drawn from x = 0 to ``width`` and from y = ``top`` down to ``bottom``.

    The train lies at y = 0; a text is 12 high, a faint one 10.
    """

    lines: list[Line]
    boxes: list[Box]
    texts: list[Text]
    width: float
    top: float
    bottom: float


def thickness(number: int) -> float:
    """Thickness of the line for a rank or a mode: 2 for 1, 3 more for every doubling, up to 32.

    Examples
    --------
    >>> [thickness(n) for n in (1, 2, 16, 10**6)]
    [2.0, 5.0, 14.0, 32.0]
    """
    return min(2.0 + 3.0 * math.log2(number), 32.0)


def label(number: int, room: int = 7) -> str:
    """A number in at most ``room`` characters.

    Examples
    --------
    >>> label(784), label(123_456_789), label(65536, 4)
    ('784', '1.2e8', '7e4')
    """
    short_forms = (re.sub(r"e\+0*", "e", f"{number:.{places}e}") for places in (1, 0))
    return next(text for text in (str(number), *short_forms) if len(text) <= room)


def draw(modes: Modes, ranks: Sequence[int]) -> Drawing:
    """The drawing of a train.

    Parameters
    ----------
    modes : sequence of d tuples
        Of one mode each, or of a row and a column mode.
    ranks : sequence of d + 1 int

    Returns
    -------
    Drawing

    Examples
    --------
    >>> picture = draw([(4,), (5,)], (1, 3, 1))
    >>> [text.text for text in picture.texts]
    ['4', '0', '3', '5', '1']
    """
    d = len(modes)
    head, tail = (d, 0) if d <= SHOWN else (SHOWN // 2, SHOWN - 1 - SHOWN // 2)
    drawn = (*range(head), *range(d - tail, d))
    sides = (-1, 1) if len(modes[0]) == 2 else (1,)
    widest_rank = max(len(label(ranks[k], 5)) for k in drawn)
    widest_mode = max(len(label(mode)) for k in drawn for mode in modes[k])
    bond = max(26.0, _CHARACTER * widest_rank + 10.0)
    bond = max(bond, _CHARACTER * widest_mode + 8.0 - _BOX)
    lines, boxes, texts = [], [], []
    margin = max(_MARGIN, (_CHARACTER * widest_mode - _BOX) / 2 + 2.0)
    x = margin
    for k in drawn:
        if tail and k == d - tail:  # the cores before this one are left out
            left_out = ranks[head + 1 : k]
            texts.append(Text(x + _GAP / 2, 4.0, "⋯"))
            texts.append(Text(x + _GAP / 2, -12.0, f"{label(k - head)} cores", True))
            if left_out:
                texts.append(Text(x + _GAP / 2, 24.0, f"ranks ≤ {label(max(left_out), 5)}", True))
            x += _GAP
            lines.append(_bond(x, bond, ranks[k]))
            texts.append(_bond_label(lines[-1], ranks[k]))
            x += bond
        middle = x + _BOX / 2
        half = max(26.0, thickness(max(ranks[k], ranks[k + 1])) + 10.0) / 2
        for mode, side in zip(modes[k], sides, strict=True):
            end = side * (half + _LEG)
            lines.append(Line(middle, side * half, middle, end, thickness(mode)))
            texts.append(Text(middle, end + (12.0 if side > 0 else -4.0), label(mode)))
        shape = (ranks[k], *modes[k], ranks[k + 1])
        boxes.append(Box(x, -half, _BOX, 2 * half, f"core {k}, shape {shape}"))
        texts.append(Text(middle, 4.0, str(k), True))
        x += _BOX
        if k < d - 1:
            lines.append(_bond(x, bond, ranks[k + 1]))
            texts.append(_bond_label(lines[-1], ranks[k + 1]))
            x += bond
    top = min(*(box.y - 1.0 for box in boxes), *(text.y - 10.0 for text in texts))
    bottom = max(text.y + 4.0 for text in texts)
    return Drawing(lines, boxes, texts, x + margin, top, bottom)


def _bond(x: float, length: float, rank: int) -> Line:
    return Line(x, 0.0, x + length, 0.0, thickness(rank))


def _bond_label(line: Line, rank: int) -> Text:
    return Text((line.x0 + line.x1) / 2, -line.thickness / 2 - 4.0, label(rank, 5))


def html(
    kind: str,
    modes: Modes,
    ranks: Sequence[int],
    *,
    dtype: str,
    shape: Sequence[int],
    params: int,
) -> str:
    """A train as HTML: the drawing, and below it what there is to say.

    Parameters
    ----------
    kind : str
        Name of the class.
    modes, ranks : sequence
        As for `draw`.
    dtype : str
    shape : sequence of int
        Of the dense array.
    params : int
        Number of entries of all cores.

    Returns
    -------
    str
        One ``figure`` element without scripts, style sheets or anything from elsewhere.
    """
    size = math.prod(shape)
    pairs = f"{_in_words(modes)}, " if len(modes[0]) == 2 else ""  # a tensor's modes are its shape
    caption = (
        f"<strong>{escape(kind)}</strong> of shape {escape(short(shape))}, {escape(dtype)}",
        escape(f"{pairs}ranks {short(ranks)}"),
        f"{params:,} parameters for {_count(size)} entries: compression {_ratio(size, params)}",
    )
    return (
        f'<figure class="ttcore-train" style="{_FIGURE}">{svg(kind, modes, ranks)}'
        f'<figcaption style="{_CAPTION}">{"<br>".join(caption)}</figcaption></figure>'
    )


def svg(kind: str, modes: Modes, ranks: Sequence[int]) -> str:
    """The drawing alone, as an SVG element; arguments as for `html`."""
    picture = draw(modes, ranks)
    height = picture.bottom - picture.top
    cores = "1 core" if len(modes) == 1 else f"{len(modes)} cores"
    name = escape(f"{kind} of {cores}: {_in_words(modes)}, ranks {short(ranks)}")
    lines = "".join(
        f'<path d="M{a.x0:g} {a.y0:g}L{a.x1:g} {a.y1:g}" stroke-width="{a.thickness:.3g}"/>'
        for a in picture.lines
    )
    boxes = "".join(
        f'<rect x="{b.x:g}" y="{b.y:g}" width="{b.width:g}" height="{b.height:g}" rx="6">'
        f"<title>{escape(b.title)}</title></rect>"
        for b in picture.boxes
    )
    texts = "".join(
        f'<text x="{t.x:g}" y="{t.y:g}"{_FAINT if t.faint else ""}>{escape(t.text)}</text>'
        for t in picture.texts
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{picture.width:g}" height="{height:g}" '
        f'viewBox="0 {picture.top:g} {picture.width:g} {height:g}" role="img" aria-label="{name}" '
        'style="display:block;max-width:100%;height:auto">'
        f'<g style="stroke:{_ACCENT};stroke-opacity:0.5">{lines}</g>'
        f'<g style="stroke:{_ACCENT};stroke-width:1.5;fill:{_ACCENT};fill-opacity:0.15">{boxes}</g>'
        f'<g fill="currentColor" text-anchor="middle" font-size="12" style="font-family:{_FONT}">'
        f"{texts}</g></svg>"
    )


def _in_words(modes: Modes) -> str:
    if len(modes[0]) == 2:
        rows, cols = zip(*modes, strict=True)
        return f"row modes {short(rows)}, column modes {short(cols)}"
    return f"modes {short([mode for (mode,) in modes])}"


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else digits(number)


def _ratio(size: int, params: int) -> str:
    try:
        return f"{size / params:,.4g}"
    except OverflowError:
        return digits(size // params)
