"""Rounding where sizes differ widely: zeros, scales at either side of a bond, long trains."""

import math

import numpy as np
import pytest

import ttcore as tt

METHODS = ["svd", "gram", "randomized"]


def options(method):
    return {"method": method, **({"rng": 0} if method == "randomized" else {})}


def unit_vectors(count, n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, count)))[0].T


def relative(y, x):
    return tt.distance(y, x) / x.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cores", [2, 3])
def test_a_wide_core_of_zeros_gives_the_zero_train(method, cores):
    rng = np.random.default_rng(0)
    ends = [rng.standard_normal((1, 4, 40)), rng.standard_normal((40, 50, 1))]
    zeros = np.zeros((40, 50, 1 if cores == 2 else 40))
    x = tt.TTTensor([ends[0], zeros, *([ends[1]] if cores == 3 else [])])
    y, info = x.round(full_output=True, **options(method))
    assert y.ranks == (1,) * (cores + 1)
    assert y.norm() == info.error == 0
    assert (y + y).round(**options(method)).norm() == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("s", [1e-8, 1e-17, 1e-100, 1e-180])
@pytest.mark.parametrize("wide", [False, True], ids=["few", "many"])
def test_terms_may_carry_their_scale_on_either_side_of_a_bond(method, s, wide):
    """x = a c + b d, with s on one side and 1 / s on the other: both terms are as large."""
    a, b, c, d = unit_vectors(4, 60)
    copies = 20 if wide else 1  # so that the bond is wider than what LAPACK's QR is used for
    one, two = np.repeat(a[:, None], copies, 1), np.repeat(b[:, None], copies, 1)
    left = np.concatenate([one, s * two], axis=1)[None]
    right = np.concatenate([np.repeat(c[None], copies, 0), np.repeat(d[None] / s, copies, 0)])
    if s < 1e-150:  # rather on the same side of 1: the product is out of the way of squares
        right = np.concatenate([np.repeat(s * c[None], copies, 0), np.repeat(d[None], copies, 0)])
    x = tt.TTTensor([left, right[:, :, None]])
    y, info = x.round(full_output=True, **options(method))
    assert y.ranks == (1, 2, 1)
    exact = np.concatenate([left[0] @ right])
    scale = np.abs(exact).max()
    found = y.cores[0][0] / scale @ y.cores[1][:, :, 0]
    assert np.linalg.norm(found - exact / scale) <= 1e-12 * np.linalg.norm(exact / scale)
    assert info.error <= 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [8, 14, 30])
@pytest.mark.parametrize("rank", [1, 20], ids="rank={}".format)
def test_terms_that_grow_and_shrink_in_opposite_order_stay(method, bits, rank):
    d = 40
    up, down = (tt.random((3,) * d, rank, rng=seed) for seed in (0, 1))
    scale = [2.0 ** (bits if k < d // 2 else -bits) for k in range(d)]
    x = tt.TTTensor([g * c for g, c in zip(up.cores, scale, strict=True)])
    y = tt.TTTensor([g / c for g, c in zip(down.cores, scale, strict=True)])
    exact = up.cores, down.cores
    for found in (tt.round_sum([(1, x), (1, y)], eps=1e-10), (x + y).round(**options(method))):
        assert found.ranks[d // 2] == 2 * rank
        plain = tt.TTTensor(exact[0]) + tt.TTTensor(exact[1])
        assert relative(found, plain) <= 1e-9


def test_sums_at_the_edge_of_the_range_keep_both_terms():
    """Terms of one size: cores of one are left as they are, those of the other brought to 1."""
    a, b = (tt.random((3,) * 6, 9, rng=seed) for seed in (0, 1))

    def sized(x, exponent):
        return tt.TTTensor([g * (2.0**exponent / np.linalg.norm(g)) for g in x.cores])

    found = tt.round_sum([(1.0, sized(a, -249.5)), (1.0, sized(b, -252.0))], eps=1e-12)
    exact = sized(a, 2.5) + sized(b, 0.0)  # 252 powers of two more in each core
    assert found.ranks == exact.round(eps=1e-12).ranks
    shifted = tt.TTTensor([g * 2.0**252 for g in found.cores])
    assert relative(shifted, exact) <= 1e-11


@pytest.mark.parametrize("rank", [2, 9], ids="rank={}".format)
@pytest.mark.parametrize("size", [1.0, 2.0**-300, 1e-80])
def test_a_term_of_zeros_does_not_outshine_the_others(rank, size):
    d = 12 if size == 1.0 else 6
    x = tt.TTTensor([g * size for g in tt.random((3,) * d, rank, rng=0).cores])
    zero = 0.0 * tt.TTTensor([g * 1e15 for g in tt.random((3,) * d, rank, rng=1).cores])
    exact = x.log_norm()
    for found in (tt.round_sum([(1.0, zero), (1.0, x)], eps=1e-10), (zero + x).round(eps=1e-10)):
        assert found.log_norm() == pytest.approx(exact, abs=1e-9)
        assert found.ranks == x.round(eps=1e-10).ranks


def test_a_sketch_of_a_long_train_knows_its_error():
    """Norms seen through a long Gaussian train are too small: only their ratios count."""
    u, v = unit_vectors(40, 40, 0), unit_vectors(40, 40, 1)
    weights = 0.8 ** np.arange(40)
    blocks = [u.T[None], (weights[:, None] * v)[:, :, None]] * 3
    x = tt.TTTensor([*blocks, *[np.full((1, 2, 1), math.sqrt(0.5))] * 400])
    for eps in (0.03, 0.1):
        y, info = x.round(eps=eps, method="randomized", rng=0, full_output=True)
        error = relative(y, x)
        assert error <= eps
        assert error / 3 <= info.error <= 3 * error


def test_gram_keeps_its_promise_where_terms_cancel():
    rng = np.random.default_rng(0)
    a, c, other = (rng.standard_normal(shape) for shape in ((30, 20), (20, 200), (20, 200)))
    left = np.concatenate([a, -a], axis=1)[None]
    right = np.concatenate([c, c - 1e-8 * other])[:, :, None]
    x = tt.TTTensor([left, right])
    exact = 1e-8 * a @ other
    size = np.linalg.norm(a, axis=0) @ np.linalg.norm(c, axis=1) * 2
    for eps in (1e-3, 1e-6):
        y, info = x.round(eps=eps, method="gram", full_output=True)
        error = np.linalg.norm(y.to_dense() - exact)
        noise = 64 * 2.0**-52 * size  # of a representation 10**8 times as large
        assert error <= eps * np.linalg.norm(exact) + noise
        assert error <= info.error * np.linalg.norm(exact) + noise


def test_gram_sees_what_one_gram_matrix_does_not():
    small = math.sqrt(7 * 40 * 2.0**-53)
    right = np.eye(1, 41)[None].repeat(40, 1)[0] + small * np.eye(40, 41, 1)
    x = tt.TTTensor([np.eye(40)[None], right[:, :, None]])
    y, info = x.round(eps=1e-6, method="gram", full_output=True)
    error = relative(y, x)
    assert error <= info.error * (1 + 1e-6) + 1e-14


@pytest.mark.parametrize("method", ["randomized", "zipup", "als", "exact"])
def test_info_tells_no_more_than_is_known(method):
    x = tt.random((6,) * 5, 8, rng=3)
    y, info = tt.multiply(x, x, max_rank=4, method=method, rng=0, full_output=True)
    exact = x * x
    assert info.error <= 1.0
    assert len(info.discarded) == 4
    if method in {"zipup", "als"}:
        assert np.isnan(info.discarded).all()
        return
    total = math.hypot(*info.discarded) / exact.norm()
    assert total == pytest.approx(info.error, rel=0.05)
    assert info.error == pytest.approx(relative(y, exact), rel=0.5)


def test_a_rounded_train_does_not_hold_the_memory_of_the_one_it_came_from():
    x = tt.random((4,) * 16, 2, rng=0)
    y = sum([x] * 7, start=x).round(eps=1e-10)
    assert y.cores[3].base is not None
    root = y.cores[3]
    while root.base is not None:
        root = root.base
    assert root.nbytes <= 2 * y.nbytes


def test_gradients_flow_into_a_core_of_zeros_beside_others():
    torch = pytest.importorskip("torch")
    ends = [torch.ones((1, 3, 2), dtype=torch.float64) * 1e6, torch.zeros((2, 3, 1))]
    zero = ends[1].to(torch.float64).requires_grad_()
    other = tt.TTTensor([torch.ones((1, 3, 2)).double(), torch.ones((2, 3, 1)).double()])
    (tt.TTTensor([ends[0], zero]) + other).to_dense().sum().backward()
    assert torch.equal(zero.grad, torch.full_like(zero, 3e6))


@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [None, 0, 3])
def test_huge_entries_may_hide_behind_zeros(method, dtype, start):
    x = tt.random((4, 4, 4, 4), 3, rng=0, dtype=dtype)
    cores = [core.copy() for core in x.cores]
    cores[2][-1] = 0.0
    exact = tt.TTTensor(cores)
    cores[1][:, :, -1] = 0.9 * np.finfo(dtype).max
    train = tt.TTTensor(cores)
    rounded = train.round(eps=1e-3, **options(method))
    assert tt.distance(rounded, exact) <= 1e-3 * exact.norm()
    if start is not None:  # the way back of a second rounding begins there
        again = rounded.orthogonalize(start).round(eps=1e-3, method="svd")
        assert tt.distance(again, exact) <= 2.1e-3 * exact.norm()


@pytest.mark.parametrize("seed", range(4))
def test_sketches_of_different_scales_stand_beside_each_other(seed):
    rng, d, rank = np.random.default_rng(1), 24, 100
    cores = []
    for k in range(d):
        core = rng.standard_normal((rank if k else 1, 4, rank if k < d - 1 else 1))
        core *= math.sqrt(len(core)) / np.linalg.norm(core)
        cores.append((core * 10.0 ** (-5 * np.arange(core.shape[2]) / rank)).astype(np.float32))
    x = tt.TTTensor(cores)
    best = tt.distance(x.round(max_rank=60), x)
    found = x.round(max_rank=60, method="randomized", rng=seed)
    # ten columns more than the rank, at each bond: Halko et al., theorem 10.5
    assert tt.distance(found, x) <= math.sqrt(1 + 60 / 9) * math.sqrt(2) * best
