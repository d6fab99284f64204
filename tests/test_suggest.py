import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt
from ttcore.layers import FC, Candidate, suggest
from ttcore.layers.modes import padded_modes


def graded(outputs, inputs, seed=0, decay=1.0):
    """A dense weight whose unfoldings have falling spectra, as trained ones do."""
    rng = np.random.default_rng(seed)
    u, v = (
        np.linalg.qr(rng.standard_normal((n, min(outputs, inputs))))[0] for n in (outputs, inputs)
    )
    return (u / (1 + np.arange(u.shape[1])) ** decay) @ v.T


def errors(weight, found):
    layer = FC.from_dense(
        weight, found.in_modes, found.out_modes, max_rank=found.ranks[1:-1], pad=True
    )
    return np.linalg.norm(layer.to_dense() - weight) / np.linalg.norm(weight), layer


@given(st.integers(1, 60), st.integers(1, 60), st.floats(1e-3, 0.9), st.integers(0, 99))
def test_every_candidate_keeps_to_eps_when_it_is_made(outputs, inputs, eps, seed):
    weight = graded(outputs, inputs, seed)
    found = suggest(weight, eps=eps)
    for candidate in found.candidates:
        error, layer = errors(weight, candidate)
        assert error <= candidate.error + 1e-7
        assert candidate.error <= eps * (1 + 1e-12)
        assert layer.ranks == candidate.ranks
        assert candidate.num_params == layer.num_params
    sizes = [c.num_params for c in found.candidates]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("given_", [(64, 96), graded(64, 96)], ids=["shape", "weight"])
@pytest.mark.parametrize("params", [300, 1000, 3000])
def test_parameters_are_a_limit_that_is_used(given_, params):
    found = suggest(given_, params=params)
    assert all(c.num_params <= params for c in found.candidates)
    assert max(c.num_params for c in found.candidates) > params / 2
    assert len({len(c.ranks) for c in found.candidates}) == len(found.candidates) > 1


@pytest.mark.parametrize("given_", [(64, 96), graded(64, 96)], ids=["shape", "weight"])
def test_latency_is_a_limit_on_the_predicted_time(given_):
    found = suggest(given_, latency=5e-5, batch=10)
    assert all(0 < c.seconds <= 5e-5 for c in found.candidates)
    more = suggest(given_, latency=5e-4, batch=10)
    assert more.best.num_params >= found.best.num_params
    layer = FC.random(
        found.best.in_modes, found.best.out_modes, found.best.ranks, dtype=found.dtype
    )
    assert layer.predicted_time(batch=10) == found.best.seconds
    assert layer.flops(batch=10) == found.best.flops


def test_with_a_weight_the_candidates_are_sorted_by_error_and_more_parameters_help():
    weight = graded(64, 96)
    found = [suggest(weight, params=p) for p in (500, 1000, 2000, 4000)]
    for one in found:
        bounds = [c.error for c in one.candidates]
        assert bounds == sorted(bounds)
    best = [one.best.error for one in found]
    assert best == sorted(best, reverse=True)


def test_the_errors_of_a_rank_bound_the_error_made():
    weight = graded(60, 48)
    for candidate in suggest(weight, eps=0.1).candidates:
        table = candidate.errors()
        assert list(table)[:3] == [1, 2, 4]
        assert list(table.values()) == sorted(table.values(), reverse=True)
        assert list(table.values())[-1] == 0
        for rank, bound in table.items():
            layer = FC.from_dense(
                weight, candidate.in_modes, candidate.out_modes, max_rank=rank, pad=True
            )
            error = np.linalg.norm(layer.to_dense() - weight) / np.linalg.norm(weight)
            assert error <= bound + 1e-7
            assert bound <= math.sqrt(len(candidate.spectra)) * error + 1e-7  # and not much above


def test_spectra_are_those_of_the_train():
    weight = graded(64, 81)
    candidate = suggest(weight, eps=0.01).candidates[-1]
    train = tt.matrix_from_dense(
        np.pad(
            weight,
            [(0, math.prod(candidate.out_modes) - 64), (0, math.prod(candidate.in_modes) - 81)],
        ),
        candidate.out_modes,
        candidate.in_modes,
    )
    for ours, exact in zip(candidate.spectra, train.spectra(), strict=True):
        count = min(len(ours), len(exact))
        np.testing.assert_allclose(ours[:count], exact[:count], atol=1e-7)


def test_the_layer_of_the_best_candidate_is_made_of_the_weight():
    weight, bias = graded(64, 101), np.arange(64.0)
    found = suggest(weight, eps=0.05)
    layer = found.layer(weight, bias=bias)
    assert layer.ranks == found.best.ranks
    assert (layer.in_features, layer.out_features) == (101, 64)
    x = np.ones((2, 101))
    np.testing.assert_allclose(layer(x), x @ layer.to_dense().T + bias, atol=1e-12)
    with pytest.raises(tt.TTShapeError, match=r"\(101, 64\).*\(64, 101\)"):
        found.layer(weight.T)


@given(st.integers(1, 3000), st.integers(1, 8))
def test_padded_modes_are_near_equal_and_not_much_too_large(size, count):
    modes = padded_modes(size, count)
    assert len(modes) == count
    assert size <= math.prod(modes) <= 1.25 * size
    assert math.prod(modes) == size or max(modes) <= max(8, 2 * math.prod(modes) ** (1 / count))


def test_primes_are_padded():
    found = suggest((1009, 10), params=1000)
    for candidate in found.candidates:
        assert 1009 <= math.prod(candidate.out_modes) <= 1100
        assert math.prod(candidate.in_modes) == 10


def test_the_text_is_a_table_and_with_a_weight_two():
    text = str(suggest((64, 96), params=500))
    assert "96 inputs, 64 outputs, params=500; batch 1, float32; dense 6144 parameters" in text
    assert "error" not in text
    lines = str(suggest(graded(64, 96).astype(np.float32), eps=0.1, batch=3)).splitlines()
    assert "batch 3, float32" in lines[0]
    assert lines[1].split()[-4:] == ["params", "flop", "ms", "error"]
    assert "error with all ranks capped at" in lines
    assert max(map(len, lines)) < 160


def test_the_spectra_are_drawn():
    pytest.importorskip("matplotlib", reason="draws")
    import matplotlib as mpl

    mpl.use("agg")
    found = suggest(graded(64, 96), eps=0.1).best
    axes = found.plot_spectra()
    assert len(axes.get_legend().get_texts()) >= len(found.spectra)
    mpl.pyplot.close("all")
    with pytest.raises(tt.TTValueError, match="no weight"):
        suggest((4, 4), params=100).best.plot_spectra()


def test_zero_and_single_entries_are_ordinary():
    assert suggest(np.zeros((4, 6)), eps=0.1).best.ranks == (1, 1, 1)
    assert suggest(np.ones((1, 1)), eps=0.1).best.error == 0
    assert isinstance(suggest((1, 1), params=10).best, Candidate)


def test_half_precision_torch_and_complex_weights_are_taken():
    weight = graded(16, 16)
    assert suggest(weight.astype(np.float16), eps=0.3).dtype == "float32"
    assert suggest(weight * 1j, eps=0.3).best.ranks == suggest(weight, eps=0.3).best.ranks
    torch = pytest.importorskip("torch", reason="a weight of torch")
    found = suggest(torch.tensor(weight, requires_grad=True), eps=0.3)
    assert found.best.ranks == suggest(weight, eps=0.3).best.ranks


NAN = np.full((4, 4), np.nan)
BAD = {
    "no goal": (lambda: suggest((4, 4)), tt.TTValueError, ["exactly one"]),
    "two goals": (lambda: suggest((4, 4), eps=0.1, params=9), tt.TTValueError, ["eps and params"]),
    "eps of a shape": (lambda: suggest((4, 4), eps=0.1), tt.TTValueError, ["weight"]),
    "eps too small": (
        lambda: suggest(np.ones((4, 4)), eps=1e-9),
        tt.TTValueError,
        ["1e-09", "from_dense"],
    ),
    "negative eps": (lambda: suggest(np.ones((4, 4)), eps=-1), tt.TTValueError, ["eps=-1"]),
    "params": (lambda: suggest((4, 4), params=0), tt.TTValueError, ["params=0"]),
    "params, text": (lambda: suggest((4, 4), params="a"), tt.TTTypeError, ["params='a'"]),
    "too few": (lambda: suggest((4, 4), params=3), tt.TTValueError, ["3", "takes 8"]),
    "too quick": (lambda: suggest((4, 4), latency=1e-12), tt.TTValueError, ["1e-12"]),
    "batch": (lambda: suggest((4, 4), params=30, batch=0), tt.TTValueError, ["batch=0"]),
    "shape": (lambda: suggest((4, 4, 4), params=30), tt.TTShapeError, ["(4, 4, 4)"]),
    "weight": (lambda: suggest(np.ones(3), params=30), tt.TTShapeError, ["(3,)"]),
    "NaN": (lambda: suggest(NAN, params=30), tt.TTValueError, ["NaN"]),
    "dtype": (lambda: suggest((4, 4), params=30, dtype=int), tt.TTTypeError, ["int64"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_error_that_explains(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind) as error:
        call()
    assert [word for word in words if word not in str(error.value)] == []
