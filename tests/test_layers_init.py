import math

import numpy as np
import pytest

import ttcore as tt
from ttcore.layers import init_cores
from ttcore.testing import dense_matrix

# (in_modes, out_modes, rank); the third has ranks beyond what the modes can use
LAYERS = {
    "mnist": ((4, 7, 4, 7), (5, 5, 8, 4), 3),
    "two cores": ((5, 7), (13, 2), 6),
    "over-full": ((2, 3, 2), (3, 2, 2), (1, 9, 7, 1)),
    "one core": ((12,), (10,), 1),
    "modes of 1": ((1, 6, 3), (4, 1, 3), (4, 5)),
}
DRAWS = 3000


def norms(init, name, draws=DRAWS, dtype=float):
    """Mean square of the dense entries, and mean entry over its deviation, over many draws."""
    ins, outs, rank = LAYERS[name]
    rng = np.random.default_rng(12)
    squares, sums = [], []
    for _ in range(draws):
        W = tt.TTMatrix(init_cores(ins, outs, rank, init=init, rng=rng, dtype=dtype))
        squares.append(W.norm() ** 2 / W.size)
        sums.append(W.sum() / math.sqrt(W.size))
    return np.array(squares), np.array(sums)


def within_five_percent(squares, variance):
    """The sample is large enough for that to be two standard deviations of its mean."""
    assert 2 * squares.std() / math.sqrt(len(squares)) < 0.05 * variance
    assert abs(squares.mean() / variance - 1) < 0.05


@pytest.mark.parametrize(
    ("init", "name"),
    [
        *(("glorot", name) for name in LAYERS),
        ("he", "two cores"),
        ("lecun", "two cores"),
        (0.25, "over-full"),
    ],
)
def test_the_variance_of_the_dense_weight_is_the_one_asked_for(init, name):
    ins, outs, _ = LAYERS[name]
    N, M = math.prod(ins), math.prod(outs)
    wanted = {"glorot": 2 / (N + M), "he": 2 / N, "lecun": 1 / N}.get(init, init)
    squares, sums = norms(init, name)
    within_five_percent(squares, wanted)
    assert abs(sums.mean()) < 4 * math.sqrt(wanted / len(sums))  # mean 0


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
def test_the_variance_holds_in_every_dtype(dtype):
    within_five_percent(norms("he", "two cores", dtype=dtype)[0], 2 / 35)


@pytest.mark.parametrize("name", ["mnist", "over-full"])
def test_every_core_has_the_same_variance(name):
    ins, outs, rank = LAYERS[name]
    rng = np.random.default_rng(0)
    draws = [init_cores(ins, outs, rank, rng=rng) for _ in range(1000)]
    variances = [
        np.mean([g[k].var(ddof=0) + g[k].mean() ** 2 for g in draws]) for k in range(len(ins))
    ]
    assert max(variances) < 1.05 * min(variances)


@pytest.mark.parametrize("name", LAYERS)
def test_orthogonal_meets_the_variance_of_glorot_in_each_draw(name):
    ins, outs, rank = LAYERS[name]
    cores = init_cores(ins, outs, rank, init="orthogonal", rng=0)
    dense = dense_matrix(cores)
    wanted = 2 / (math.prod(ins) + math.prod(outs))
    assert abs((dense**2).mean() / wanted - 1) < 1e-12
    for core in cores:  # the Gram matrix of the shorter side is a multiple of the identity
        rows = core.reshape(-1, core.shape[3])
        gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
        assert np.abs(gram - gram[0, 0] * np.eye(len(gram))).max() < 1e-13 * gram[0, 0] * 4


def inner(shapes):
    return math.prod(s[3] for s in shapes)


def tensornet_tf(shapes):
    return inner(shapes) * math.prod(2 / (m * s + r * n) for r, m, n, s in shapes)


def tensornet_tf_2016(shapes):
    """0.774: what cutting a normal distribution at two deviations leaves of its variance."""
    return inner(shapes) * math.prod(0.77374 * (2 / (r * n)) ** 2 for r, _, n, _ in shapes)


@pytest.mark.parametrize("name", ["mnist", "two cores", "over-full"])
@pytest.mark.parametrize(
    ("init", "formula"), [("tensornet-tf", tensornet_tf), ("tensornet-tf-2016", tensornet_tf_2016)]
)
def test_initialisers_of_tensornet_tf_have_the_variance_of_their_formula(init, formula, name):
    ins, outs, rank = LAYERS[name]
    shapes = [
        (g.shape[0], m, n, g.shape[3])
        for g, m, n in zip(init_cores(ins, outs, rank), outs, ins, strict=True)
    ]
    within_five_percent(norms(init, name)[0], formula(shapes))


def test_truncated_normal_numbers_end_at_two_deviations():
    (core,) = init_cores((100,), (100,), 1, init="tensornet-tf", rng=0)
    deviation = math.sqrt(2 / 200 / 0.77374)
    assert 1.99 * deviation < np.abs(core).max() <= 2 * deviation
    assert abs(core.var() / (2 / 200) - 1) < 0.05


def test_initialiser_of_tensornet_for_matlab_is_orthogonal_in_its_order_of_modes():
    cores = init_cores((4, 7, 4, 7), (5, 5, 8, 4), 3, init="tensornet-matlab", rng=0)
    assert abs(tt.TTMatrix(cores).norm() - 1) < 1e-13
    for core in cores:
        rows = core.reshape(core.shape[0], -1)
        np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-14)


@pytest.mark.parametrize(
    ("layer", "seen"),
    [(((4, 7, 4, 7), (5, 5, 8, 4), 3), 7e-10), (((4, 8, 8, 4), (4, 8, 8, 4), 8), 2e-17)],
)
def test_initialiser_of_tensornet_for_theano_vanishes_as_the_original_does(layer, seen):
    """Orders of magnitude, as found by sampling a restatement of the original."""
    rng = np.random.default_rng(0)
    squares = [
        tt.TTMatrix(init_cores(*layer, init="tensornet-theano", rng=rng)).norm() ** 2
        for _ in range(100)
    ]
    variance = np.mean(squares) / (math.prod(layer[0]) * math.prod(layer[1]))
    assert seen / 3 < variance < 3 * seen


def test_ranks_given_one_by_one_are_taken_as_they_are():
    assert [g.shape for g in init_cores((2, 2), (3, 1), (1, 40, 1), rng=0)] == [
        (1, 3, 2, 40),
        (40, 1, 2, 1),
    ]
    assert init_cores((2, 2), (3, 1), 40, rng=0)[0].shape == (1, 3, 2, 2)


def test_equal_seeds_give_equal_cores():
    a, b = (init_cores((2, 3), (4, 5), 2, rng=7) for _ in range(2))
    assert [g.tobytes() for g in a] == [g.tobytes() for g in b]


BAD = {
    "name": (
        lambda: init_cores((2,), (2,), 1, init="xavier"),
        tt.TTValueError,
        ["'xavier'", "'glorot'", "'tensornet-tf'"],
    ),
    "no variance": (lambda: init_cores((2,), (2,), 1, init=0.0), tt.TTValueError, ["init=0.0"]),
    "NaN": (lambda: init_cores((2,), (2,), 1, init=math.nan), tt.TTValueError, ["nan"]),
    "None": (lambda: init_cores((2,), (2,), 1, init=None), tt.TTTypeError, ["None"]),
    "bool": (lambda: init_cores((2,), (2,), 1, init=True), tt.TTTypeError, ["True"]),
    "modes": (
        lambda: init_cores((2, 2), (2,), 1),
        tt.TTShapeError,
        ["(2, 2)", "(2,)", "modes of 1"],
    ),
    "ranks": (lambda: init_cores((2, 2), (2, 2), (1, 2)), tt.TTShapeError, ["2 entries"]),
    "dtype": (lambda: init_cores((2,), (2,), 1, dtype="int32"), tt.TTTypeError, ["int32"]),
    "complex": (
        lambda: init_cores((2,), (2,), 1, init="tensornet-tf", dtype=complex),
        tt.TTTypeError,
        ["complex128"],
    ),
    "over-full": (
        lambda: init_cores((2, 2), (2, 2), (5,), init="tensornet-theano"),
        tt.TTShapeError,
        ["rank 5", "up to 4"],
    ),
    "over-full, reversed": (
        lambda: init_cores((2, 2), (2, 2), (5,), init="tensornet-matlab"),
        tt.TTShapeError,
        ["rank 5", "up to 4"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_that_explains(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind) as error:
        call()
    assert [word for word in words if word not in str(error.value)] == []
