"""Indexing of TT-tensors is NumPy's: results, shapes and errors."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ttcore as tt

EPS = np.finfo(float).eps


@st.composite
def arrays_of_indices(draw, n, shape):
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(-n, n - 1), min_size=size, max_size=size))
    return np.array(values, dtype=np.intp).reshape(shape)


@st.composite
def keys(draw, shape):
    """A key for an array of this shape, of every kind that NumPy takes; sometimes a wrong one."""
    common = draw(st.sampled_from([(2,), (3,), (1,), (2, 2), (3, 1), (1, 2, 1)]))
    entries = []
    axis = 0
    stop = draw(st.integers(0, len(shape)))
    while axis < stop:
        n = shape[axis]
        kind = draw(
            st.sampled_from(["int", "slice", "slice", "none", "array", "list", "mask", "numpy int"])
        )
        if kind == "none":
            entries.append(None)
            continue
        if kind == "int":
            entries.append(draw(st.integers(-n, n - 1)))
        elif kind == "numpy int":
            entries.append(np.int16(draw(st.integers(-n, n - 1))))
        elif kind == "slice":
            bound = st.none() | st.integers(-n - 1, n + 1)
            step = st.none() | st.integers(-n - 1, n + 1).filter(bool)
            entries.append(slice(draw(bound), draw(bound), draw(step)))
        elif kind == "array":
            part = draw(st.sampled_from([common, common[-1:], (1,)]))
            entries.append(draw(arrays_of_indices(n, part)))
        elif kind == "list":
            entries.append(draw(arrays_of_indices(n, common[-1:])).tolist())
        else:
            width = draw(st.integers(1, min(2, stop - axis)))
            part = shape[axis : axis + width]
            bits = draw(st.lists(st.booleans(), min_size=int(np.prod(part)), max_size=64))
            entries.append(np.resize(np.array(bits), part))
            axis += width - 1
        axis += 1
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), Ellipsis)
    if draw(st.integers(0, 9)) == 0:
        entries.insert(draw(st.integers(0, len(entries))), draw(st.sampled_from([None, True])))
    return tuple(entries) if len(entries) != 1 or draw(st.booleans()) else entries[0]


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def reference(a, key):
    """NumPy's result, or its exception."""
    try:
        return a[key]
    except (IndexError, ValueError) as error:
        return error


@settings(max_examples=400)
@given(data=st.data(), shape=SHAPES)
def test_any_key_gives_what_numpy_gives(data, shape):
    x = tt.random(shape, 3, rng=0)
    a = x.to_dense()
    key = data.draw(keys(shape))
    want = reference(a, key)
    if isinstance(want, Exception) or np.size(want) == 0:
        with pytest.raises(IndexError):
            x[key]
        return
    got = x[key]
    if np.ndim(want) == 0:
        assert isinstance(got, float)
    else:
        assert got.shape == want.shape
        got = got.to_dense()
    scale = max(1.0, np.abs(a).max())
    np.testing.assert_allclose(got, want, rtol=0, atol=2e3 * EPS * scale)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize(
    "key",
    [
        (1, slice(None, None, -1), [0, 2]),
        ([1, 0], slice(None), [0, 2]),
        (None, Ellipsis, np.array([[0, 1], [2, 0]])),
        (0, 1, 2),
    ],
    ids=str,
)
def test_parts_keep_the_dtype(dtype, key):
    x = tt.random((2, 3, 4), 3, rng=0, dtype=dtype)
    want = x.to_dense()[key]
    got = x[key]
    if isinstance(got, tt.TTTensor):
        assert got.dtype == x.dtype
        got = got.to_dense()
    np.testing.assert_allclose(got, want, atol=200 * np.finfo(dtype).eps * np.abs(want).max())


def test_slices_of_special_places():
    x = tt.from_dense(np.arange(24.0).reshape(2, 3, 4))
    assert x[()].shape == x[...].shape == (2, 3, 4)
    assert x[None].shape == (1, 2, 3, 4)
    assert x[0, 0, 0, None].shape == (1,)
    assert x[True].shape == (1, 2, 3, 4)
    assert x[np.array(1), ..., np.int64(2)].shape == (3,)
    assert x[-1, -1, -1] == pytest.approx(23)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (2, ["2", "mode 0", "size 2"]),
        ((0, -4), ["-4", "mode 1", "size 3"]),
        ((0, 0, 0, 0), ["3 modes", "4"]),
        ((Ellipsis, Ellipsis), ["Ellipsis"]),
        ("a", ["'a'", "str"]),
        (1.0, ["1.0", "float"]),
        ([0.5], ["float64"]),
        (slice(1.5), ["slice"]),
        (slice(2, 2), ["mode 0", "empty"]),
        (False, ["nothing"]),
        ([], ["nothing"]),
        (np.zeros((3, 3), bool), ["(3, 3)", "(2, 3)"]),
        (np.zeros(2, bool), ["nothing"]),
        (([0, 1], [0, 1, 2]), ["(2,)", "(3,)"]),
        ([[0, 5]], ["5", "mode 0"]),
    ],
    ids=str,
)
def test_wrong_keys_are_refused_by_name(key, words):
    with pytest.raises(tt.TTIndexError) as caught:
        tt.ones((2, 3, 4))[key]
    assert [word for word in words if word not in str(caught.value)] == []


def test_iteration_is_over_the_first_mode():
    x = tt.random((3, 2, 2), 2, rng=0)
    assert len(x) == 3
    for got, want in zip(x, x.to_dense(), strict=True):
        np.testing.assert_allclose(got.to_dense(), want, atol=1e-13)
    v = tt.rank_one([[1.0, 2.0, 3.0]])
    assert list(v) == [1.0, 2.0, 3.0]


@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(["f4", "f8", "c16"]))
def test_gather_equals_dense_entries(data, shape, dtype):
    x = tt.random(shape, 3, rng=0, dtype=dtype)
    batch = data.draw(st.integers(0, 20))
    columns = [data.draw(arrays_of_indices(n, (batch,))) for n in shape]
    indices = np.stack(columns, axis=1)
    a = x.to_dense()
    got = x.gather(indices)
    assert got.shape == (batch,)
    assert got.dtype == x.dtype
    np.testing.assert_allclose(
        got, a[tuple(columns)], atol=200 * np.finfo(dtype).eps * max(1, np.abs(a).max())
    )


def test_gather_of_more_rows_than_a_block():
    x = tt.random((5, 7, 3), 4, rng=0)
    rng = np.random.default_rng(0)
    indices = np.stack([rng.integers(0, n, 40_000) for n in x.shape], axis=1)
    np.testing.assert_allclose(x.gather(indices), x.to_dense()[tuple(indices.T)], atol=1e-12)


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([[0, 0]], tt.TTShapeError, ["(1, 2)", "(batch, 3)"]),
        ([0, 0, 0], tt.TTShapeError, ["(3,)"]),
        ([[0, 3, 0]], tt.TTIndexError, ["indices[0, 1] = 3", "size 3"]),
        ([[0, 0, 0], [0, 0, -5]], tt.TTIndexError, ["indices[1, 2] = -5", "size 4"]),
        ([[0.0, 0.0, 0.0]], tt.TTIndexError, ["float64"]),
    ],
    ids=str,
)
def test_wrong_indices_are_refused(indices, error, words):
    with pytest.raises(error) as caught:
        tt.ones((2, 3, 4)).gather(indices)
    assert [word for word in words if word not in str(caught.value)] == []


@given(data=st.data(), shape=SHAPES)
def test_contract_equals_tensordot(data, shape):
    x = tt.random(shape, 3, rng=0)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    rng = np.random.default_rng(1)
    vectors = {axis: rng.standard_normal(shape[axis]) for axis in axes}
    want = x.to_dense()
    for axis in sorted(axes, reverse=True):
        want = np.tensordot(want, vectors[axis], axes=(axis, 0))
    got = x.contract({axis - len(shape): v for axis, v in vectors.items()})
    got = got if np.ndim(want) == 0 else got.to_dense()
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_contract_does_not_conjugate_and_promotes():
    x = tt.ones((2, 3), dtype=np.float32)
    assert x.contract({0: [1j, 1.0], 1: [1.0, 0.0, 0.0]}) == 1 + 1j
    assert x.contract({0: np.ones(2)}).dtype == np.float64


@pytest.mark.parametrize("vectors", [{}, [1.0, 2.0], {0: [1.0]}, {0: [1.0, 2.0], -2: [1.0, 2.0]}])
def test_contract_refuses_what_does_not_fit(vectors):
    with pytest.raises(tt.TTError):
        tt.ones((2, 3)).contract(vectors)


LONG = tt.random((10,) * 40, 3, rng=0)


@settings(max_examples=40)
@given(data=st.data())
def test_keys_of_long_trains_agree_with_gather(data):
    """d = 40: nothing dense is built, and single entries of the part are entries of the whole."""
    places = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=4, unique=True))
    key: list = [slice(None)] * 40
    for k in sorted(places):
        key[k] = data.draw(
            st.integers(-10, 9) | st.just(slice(8, 1, -3)) | arrays_of_indices(10, (2,))
        )
    part = LONG[tuple(key)]
    origin = np.arange(10)
    picked = [origin[k] if not isinstance(k, np.ndarray) else k for k in key]
    arrays = [k for k in picked if np.ndim(k) == 1 and len(k) == 2]
    assert part.num_params < 10**6
    # compare one entry
    digits = data.draw(st.lists(st.integers(0, 1), min_size=part.ndim, max_size=part.ndim))
    got = part[tuple(digits)]
    whole = _entry_of_whole(key, digits, has_arrays=any(isinstance(k, np.ndarray) for k in key))
    want = LONG.gather([whole])[0]
    assert abs(got - want) <= 1e-10 * max(1.0, LONG_SCALE)
    assert len(arrays) <= 4


LONG_SCALE = float(np.abs(LONG.gather(np.zeros((1, 40), int)))[0]) + 100


def _entry_of_whole(key, digits, *, has_arrays):
    """The multi-index in the whole tensor of entry ``digits`` of the part."""
    chosen = [
        k
        for k, entry in enumerate(key)
        if isinstance(entry, np.ndarray) or (has_arrays and not isinstance(entry, slice))
    ]
    front = has_arrays and chosen[-1] - chosen[0] + 1 != len(chosen)
    rest = list(digits)
    joint = rest.pop(0) if front else None
    whole = []
    for k, entry in enumerate(key):
        if isinstance(entry, slice):
            whole.append(range(10)[entry][rest.pop(0)])
        elif isinstance(entry, np.ndarray):
            if joint is None:
                joint = rest.pop(0)
            whole.append(int(entry[joint]))
        else:
            if has_arrays and joint is None and k == chosen[0]:
                joint = rest.pop(0)
            whole.append(operator.index(entry) % 10)
    return whole
