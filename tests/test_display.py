import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given

import ttcore as tt
from ttcore import display
from ttcore.testing import tt_matrices, tt_tensors

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"br"}


class Nesting(HTMLParser):
    """Checks that every tag is closed, in order; gathers tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(page):
    parser = Nesting()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def drawing(page):
    return ET.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL)[0])


def texts(page):
    return [element.text for element in drawing(page).iter(f"{SVG}text")]


def caption(page):
    return parsed(page[page.index("<figcaption") :].removesuffix("</figure>")).text


@given(tt_tensors())
def test_a_tensor_shows_every_mode_and_rank_in_order(x):
    words = texts(x._repr_html_())
    expected = []
    for k, mode in enumerate(x.shape):
        expected += [str(mode), str(k), str(x.ranks[k + 1])]
    assert words == expected[:-1]  # the outer rank is not drawn


@given(tt_matrices())
def test_a_matrix_shows_row_and_column_modes_of_every_core(W):
    words = texts(W._repr_html_())
    expected = []
    for k, (m, n) in enumerate(zip(W.row_modes, W.col_modes, strict=True)):
        expected += [str(m), str(n), str(k), str(W.ranks[k + 1])]
    assert words == expected[:-1]


def test_row_modes_point_up_and_column_modes_down():
    W = tt.random_matrix((11, 12), (13, 14), 5, rng=0)
    height = {t.text: float(t.get("y")) for t in drawing(W._repr_html_()).iter(f"{SVG}text")}
    assert max(height["11"], height["12"]) < height["0"] < min(height["13"], height["14"])


def test_the_caption_says_what_the_train_is():
    W = tt.random_matrix((4, 7), (5, 6), 3, rng=0, dtype="float32")
    said = caption(W._repr_html_())
    for words in (
        "TTMatrix of shape (28, 30), float32",
        "row modes (4, 7), column modes (5, 6), ranks (1, 3, 1)",
        "186 parameters for 840 entries: compression 4.516",
    ):
        assert words in said
    assert "TTTensor of shape (3, 4), float64" in caption(tt.ones((3, 4))._repr_html_())


def test_the_drawing_has_a_name_and_its_cores_have_titles():
    root = drawing(tt.random((4, 5), 3, rng=0)._repr_html_())
    assert root.get("role") == "img"
    assert root.get("aria-label") == "TTTensor of 2 cores: modes (4, 5), ranks (1, 3, 1)"
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles == ["core 0, shape (1, 4, 3)", "core 1, shape (3, 5, 1)"]
    assert "of 1 core:" in drawing(tt.ones((3,))._repr_html_()).get("aria-label")


@pytest.mark.parametrize(
    "train",
    [tt.random((4,) * 2000, 30, rng=0), tt.random_matrix((4,) * 2000, (2,) * 2000, 30, rng=0)],
    ids=["tensor", "matrix"],
)
def test_long_trains_are_abbreviated_in_the_middle(train):
    page = train._repr_html_()
    assert len(page.encode()) < 20_000
    words = texts(page)
    assert len(list(drawing(page).iter(f"{SVG}rect"))) == display.SHOWN - 1
    assert {"0", "5", "1995", "1999", "⋯", "1989 cores", "ranks ≤ 30"} <= set(words)
    assert not {"6", "1994"} & set(words)
    assert "compression ~1e" in caption(page)


def test_the_longest_train_that_is_drawn_whole():
    assert "⋯" not in texts(tt.ones((2,) * display.SHOWN)._repr_html_())
    words = texts(tt.ones((2,) * (display.SHOWN + 1))._repr_html_())
    assert {"⋯", "2 cores"} <= set(words)


@pytest.mark.parametrize("modes", [[(4,)], [(10**6,), (2,)], [(3, 10**7)], [(2,)] * 3000])
@pytest.mark.parametrize("rank", [1, 9, 2**14, 10**9])
def test_everything_lies_inside_the_drawing(modes, rank):
    picture = display.draw(modes, (1, *[rank] * (len(modes) - 1), 1))
    right, top, bottom = picture.width, picture.top, picture.bottom
    for t in picture.texts:
        half = 3.6 * len(t.text)  # digits are 7.2 wide
        assert t.x - half >= 0
        assert t.x + half <= right
        assert top <= t.y - 9
        assert t.y + 3 <= bottom
    for line in picture.lines:
        assert 0 <= min(line.x0, line.x1) <= max(line.x0, line.x1) <= right
        assert top <= min(line.y0, line.y1) - (line.thickness / 2 if line.y0 == line.y1 else 0)
    for box in picture.boxes:
        assert 0 <= box.x <= box.x + box.width <= right
        assert top <= box.y <= box.y + box.height <= bottom


def test_lines_grow_with_the_logarithm_of_their_number():
    bonds = [a.thickness for a in display.draw([(1,)] * 4, (1, 2, 4, 8, 1)).lines if a.y0 == a.y1]
    assert bonds == [5.0, 8.0, 11.0]


def test_names_are_escaped():
    evil = '<script>alert("1")</script>&'
    page = display.html(evil, [(2,)], (1, 1), dtype=evil, shape=(2,), params=2)
    assert "script" not in parsed(page).tags
    assert caption(page).count(evil) == 2
    assert drawing(page).get("aria-label").startswith(evil)

    class Fancy(tt.TTTensor):
        __slots__ = ()

    Fancy.__name__ = "<b>"
    assert "<b>" not in Fancy([np.ones((1, 2, 1))])._repr_html_()


def test_nothing_runs_and_nothing_is_fetched():
    page = parsed(tt.random_matrix((4, 4), (4, 4), 3, rng=0)._repr_html_())
    assert not {"script", "style", "link", "img", "image", "use", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or "href" in name]
    assert not [value for _, value in page.attributes if "url(" in value or "@import" in value]
    assert [value for _, value in page.attributes if "://" in value] == [SVG[1:-1]]


def test_colours_are_those_of_the_page():
    """No colour but the accent, which is legible on white and on black."""
    page = tt.ones((3, 4))._repr_html_()
    assert set(re.findall(r"#[0-9a-f]{3,6}", page)) == {"#3d85c6"}
    assert 'fill="currentColor"' in page
    assert "--jp-content-font-color1" in page
    light = sum(
        w * ((c / 255 + 0.055) / 1.055) ** 2.4
        for w, c in zip((0.2126, 0.7152, 0.0722), (0x3D, 0x85, 0xC6), strict=True)
    )
    assert 1.05 / (light + 0.05) > 3  # WCAG 2.1, 1.4.11: graphics on white
    assert (light + 0.05) / 0.05 > 3  # and on black


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_any_dtype_and_zero(dtype):
    assert dtype in caption(tt.zeros((3, 4)).astype(dtype)._repr_html_())


def test_arrays_of_other_libraries_are_shown():
    xp = pytest.importorskip("array_api_strict")
    x = tt.TTTensor([xp.ones((1, 3, 2)), xp.ones((2, 4, 1))])
    assert texts(x._repr_html_()) == ["3", "0", "2", "4", "1"]


def test_labels_are_short_and_true():
    for number in (1, 9_999_999, 10**7, 123_456_789_012, 2**62):
        for room in (5, 7):
            text = display.label(number, room)
            assert len(text) <= room
            places = len(text.partition("e")[0]) - 1 if "e" in text else 9
            assert math.isclose(float(text), number, rel_tol=0.5 if places == 0 else 0.05)
