"""Trains of other libraries' arrays: the library stays, and the answers are the same."""

import importlib

import numpy as np
import pytest

import ttcore as tt
from ttcore.testing import assert_within, dense, dense_matrix, distance, gamma, magnitude

LIBRARIES = ["numpy", "array_api_strict", "torch", "jax.numpy", "torch on CUDA"]
METHODS = ["svd", "gram"]


class TorchOnCuda:
    """torch, whose arrays are made on the GPU."""

    __name__ = "torch"

    def asarray(self, a):
        return pytest.importorskip("torch").asarray(a, device="cuda")


@pytest.fixture(params=LIBRARIES)
def xp(request):
    if request.param == "torch on CUDA":
        if not pytest.importorskip("torch", reason="needs torch").cuda.is_available():
            pytest.skip("needs a CUDA device")
        return TorchOnCuda()
    return pytest.importorskip(request.param, reason=f"needs {request.param.partition('.')[0]}")


@pytest.fixture(params=["float32", "complex64", "float64"])
def kind(request, xp):
    if xp.__name__ == "jax.numpy" and request.param == "float64":
        pytest.skip("JAX has no float64 unless it is switched on at start")
    return np.dtype(request.param)


def normal(shape, kind, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.issubdtype(kind, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(kind)


def to_library(xp, a):
    return xp.asarray(np.ascontiguousarray(a))


def to_numpy(a):
    return np.asarray(a.detach().cpu() if hasattr(a, "detach") else a)


def cores_of(train):
    return tuple(to_numpy(core) for core in train.cores)


def is_of(xp, a):
    one = xp.asarray(np.ones(1, np.float32))
    return isinstance(a, type(one)) and a.device == one.device


def tensor(xp, kind, seed=0):
    """TT-tensor with random normal cores, and the same cores as NumPy arrays."""
    shapes = [(1, 3, 2), (2, 4, 3), (3, 5, 1)]
    cores = [normal(shape, kind, seed + k) for k, shape in enumerate(shapes)]
    return tt.TTTensor([to_library(xp, core) for core in cores]), tuple(cores)


def matrix(xp, kind):
    shapes = [(1, 3, 2, 2), (2, 1, 4, 3), (3, 2, 3, 1)]
    cores = [normal(shape, kind, k) for k, shape in enumerate(shapes)]
    return tt.TTMatrix([to_library(xp, core) for core in cores]), tuple(cores)


def eps_of(kind):
    return float(np.finfo(kind).eps)


def norm(a):
    return float(np.linalg.norm(np.ravel(a).astype(complex)))


def test_cores_stay_arrays_of_their_library(xp, kind):
    x, cores = tensor(xp, kind)
    assert all(is_of(xp, core) for core in x.cores)
    assert x.shape == (3, 4, 5)
    assert x.ranks == (1, 2, 3, 1)
    assert x.num_params == sum(core.size for core in cores)
    assert x.nbytes == sum(core.nbytes for core in cores)
    assert len(repr(x).splitlines()) <= 3


def test_from_dense_keeps_the_library_and_the_error_bound(xp, kind):
    a = normal((4, 5, 6), kind)
    for eps in (None, 1e-1):
        x = tt.from_dense(to_library(xp, a), eps=eps)
        assert all(is_of(xp, core) for core in x.cores)
        assert cores_of(x)[0].dtype == kind
        bound = (eps or 0) + 4 * 20 * np.sqrt(3) * eps_of(kind)
        assert norm(dense(cores_of(x)) - a) <= bound * norm(a)


def test_matrix_from_dense_keeps_the_library(xp, kind):
    A = normal((6, 8), kind)
    W = tt.matrix_from_dense(to_library(xp, A), (2, 3), (4, 2))
    assert all(is_of(xp, core) for core in W.cores)
    assert norm(dense_matrix(cores_of(W)) - A) <= 4 * 8 * np.sqrt(2) * eps_of(kind) * norm(A)


def test_to_dense_is_an_array_of_the_library(xp, kind):
    x, cores = tensor(xp, kind)
    full = x.to_dense()
    assert is_of(xp, full)
    assert_within(to_numpy(full), dense(cores), gamma(kind, cores) * magnitude(cores))


@pytest.mark.parametrize("method", METHODS)
def test_round_keeps_the_library_and_the_error_bound(xp, kind, method):
    x, cores = tensor(xp, kind)
    doubled = (x + x).round(method=method)
    assert all(is_of(xp, core) for core in doubled.cores)
    assert doubled.ranks == (1, 2, 3, 1)
    size = norm(magnitude(cores))
    assert norm(dense(cores_of(doubled)) - 2 * dense(cores)) <= 4 * 30 * 2 * eps_of(kind) * 2 * size
    y = x.round(eps=0.5, method=method)
    assert (
        distance(cores_of(y), cores) <= 0.5 * norm(dense(cores)) + 4 * 15 * 2 * eps_of(kind) * size
    )


def test_randomized_round_keeps_the_library(xp, kind):
    x, cores = tensor(xp, kind)
    y = (x + x).round(max_rank=3, method="randomized", rng=0)
    assert all(is_of(xp, core) for core in y.cores)
    size = norm(magnitude(cores))
    assert distance(cores_of(y), cores_of(x * 2.0)) <= 4 * 30 * 2 * eps_of(kind) * 2 * size


def test_sum_and_product_keep_the_library_and_equal_dense(xp, kind):
    (x, g), (y, h) = tensor(xp, kind), tensor(xp, kind, seed=9)
    for result, exact, size in [
        (x + y, dense(g) + dense(h), magnitude(g) + magnitude(h)),
        (x - y, dense(g) - dense(h), magnitude(g) + magnitude(h)),
        (x * y, dense(g) * dense(h), magnitude(g) * magnitude(h)),
        (x * 3.0, 3 * dense(g), 3 * magnitude(g)),
        (2 * x, 2 * dense(g), 2 * magnitude(g)),
        (x + 1.0, dense(g) + 1, magnitude(g) + 1),
        (-x, -dense(g), magnitude(g)),
        (x.conj(), dense(g).conj(), magnitude(g)),
        (x.real, dense(g).real, magnitude(g)),
    ]:
        assert all(is_of(xp, core) for core in result.cores)
        assert_within(dense(cores_of(result)), exact, 2 * gamma(kind, g, h) * size)


def test_vdot_sum_and_norm_equal_dense(xp, kind):
    (x, g), (y, h) = tensor(xp, kind), tensor(xp, kind, seed=9)
    coarse = gamma(kind, g, h)
    bound = coarse * float(np.vdot(magnitude(g), magnitude(h)))
    assert abs(complex(tt.vdot(x, y)) - np.vdot(dense(g), dense(h))) <= bound
    assert abs(complex(x.sum()) - dense(g).sum()) <= coarse * magnitude(g).sum()
    assert type(x.norm()) is float
    assert abs(x.norm() - norm(dense(g))) <= coarse * norm(magnitude(g))
    assert abs(tt.distance(x, y) - norm(dense(g) - dense(h))) <= coarse * (
        norm(magnitude(g)) + norm(magnitude(h))
    )
    assert tt.allclose(x, x, rtol=1e-3)


def test_matvec_keeps_the_library_and_equals_dense(xp, kind):
    W, cores = matrix(xp, kind)
    x = normal((7, W.shape[1]), kind, 5)
    exact = x @ dense_matrix(cores).T
    bound = gamma(kind, cores) * (np.abs(x) @ magnitude(cores).T)
    rows = to_library(xp, x)
    for y, z, size in [
        (W.apply(rows), exact, bound),
        (tt.linear.matvec(W.cores, rows), exact, bound),
        (W @ to_library(xp, x.T), exact.T, bound.T),
        (W @ to_library(xp, x[0]), exact[0], bound[0]),
    ]:
        assert is_of(xp, y)
        assert to_numpy(y).dtype == kind
        assert_within(to_numpy(y), z, size)


def test_matvec_backward_keeps_the_library(xp, kind):
    W, cores = matrix(xp, kind)
    x, gy = (normal((7, n), kind, 5) for n in W.shape[::-1])
    gx, gcores = tt.linear.matvec_backward(W.cores, to_library(xp, x), to_library(xp, gy))
    assert is_of(xp, gx)
    assert all(is_of(xp, g) for g in gcores)
    exact = gy @ dense_matrix(cores).conj()
    assert_within(to_numpy(gx), exact, gamma(kind, cores) * (np.abs(gy) @ magnitude(cores)))


def test_matrix_products_keep_the_library(xp, kind):
    W, cores = matrix(xp, kind)
    shapes = [(1, 2, 2), (2, 4, 2), (2, 3, 1)]
    x = tuple(normal(shape, kind, k) for k, shape in enumerate(shapes))
    y = W @ tt.TTTensor([to_library(xp, core) for core in x])
    assert all(is_of(xp, core) for core in y.cores)
    exact = dense_matrix(cores) @ dense(x).ravel()
    bound = gamma(kind, cores, x) * (magnitude(cores) @ magnitude(x).ravel())
    assert_within(dense(cores_of(y)).ravel(), exact, bound)
    square = W.H @ W
    assert all(is_of(xp, core) for core in square.cores)


def test_long_trains_do_not_overflow(xp):
    core = xp.asarray(np.full((1, 3, 1), 10, np.float32))
    x = tt.TTTensor([core] * 300)
    exact = 300 * (np.log(10) + np.log(3) / 2)
    assert abs(x.log_norm() - exact) <= 300 * 4 * 8 * eps_of(np.float32)
    assert abs((x + x).round(eps=1e-3).log_norm() - exact - np.log(2)) <= 2e-3


@pytest.mark.parametrize(("name", "other"), [("torch", "numpy"), ("array_api_strict", "numpy"),
                                             ("torch", "jax.numpy")])  # fmt: skip
def test_operands_of_different_libraries_are_refused_by_name(name, other):
    first, second = (pytest.importorskip(lib, reason="mixes libraries") for lib in (name, other))
    x, y = (tensor(xp, np.dtype("float32"))[0] for xp in (first, second))
    for operation in (lambda: x + y, lambda: tt.vdot(x, y), lambda: x * y):
        with pytest.raises(tt.TTTypeError) as error:
            operation()
        for library in (name, other):
            assert library.partition(".")[0] in str(error.value)


def test_cores_of_different_libraries_are_refused_by_name():
    strict = importlib.import_module("array_api_strict")
    with pytest.raises(tt.TTTypeError, match="array_api_strict") as error:
        tt.TTTensor([np.ones((1, 2, 1)), strict.ones((1, 2, 1))])
    assert "numpy" in str(error.value)


def test_round_of_torch_trains_differentiates():
    torch = pytest.importorskip("torch", reason="differentiates through the algebra with torch")
    cores = [
        torch.tensor(normal(shape, np.float64, k), requires_grad=True)
        for k, shape in enumerate([(1, 3, 2), (2, 4, 1)])
    ]
    x = tt.TTTensor(cores)
    total = (x * x).to_dense().sum()
    total.backward()
    assert all(core.grad is not None for core in cores)
    exact = 2 * torch.einsum("anb,bmc,nm->anb", cores[0], cores[1], x.to_dense()).detach()
    expected = 2 * torch.einsum("bmc,nm->nb", cores[1], x.to_dense()).detach()[None]
    assert exact.shape == expected.shape
    bound = 1e-13 * float(torch.abs(expected).max())
    assert float(torch.abs(cores[0].grad - expected).max()) <= bound


def test_copies_of_torch_trains_differentiate():
    """Where the library copies: a single core as a whole, a mode that is repeated, `copy`."""
    torch = pytest.importorskip("torch", reason="differentiates through copies with torch")
    core = torch.tensor(normal((1, 3, 1), np.float64), requires_grad=True)
    one = torch.tensor(normal((1, 1, 1), np.float64), requires_grad=True)
    x, y = tt.TTTensor([core]), tt.TTTensor([one])
    for train in (x, x.copy(), x + y, x.orthogonalize(0), x.round(eps=1e-3)):
        (gradient,) = torch.autograd.grad(train.to_dense().sum(), core)
        torch.testing.assert_close(gradient, torch.ones_like(core))
    (gradient,) = torch.autograd.grad((x + y).to_dense().sum(), one)
    torch.testing.assert_close(gradient, 3 * torch.ones_like(one))


def test_gathers_and_their_gradients_keep_the_library(xp, kind):
    x, cores = tensor(xp, kind)
    index = np.array([[0, 1, 2], [2, -1, 4], [0, 1, 2], [1, 3, 0]])
    gy = normal((4,), kind, 7)
    got = x.gather(index)
    assert is_of(xp, got)
    exact, size = (f(cores)[tuple(index.T)] for f in (dense, magnitude))
    assert_within(to_numpy(got), exact, gamma(kind, cores) * size)
    found = tt.indexing.gather_backward(x.cores, index, to_library(xp, gy))
    want = tt.indexing.gather_backward(cores, index, gy)
    for g, h in zip(found, want, strict=True):
        assert is_of(xp, g)
        assert norm(to_numpy(g) - h) <= 100 * eps_of(kind) * (norm(h) + norm(gy))


def test_rows_and_their_gradients_keep_the_library(xp, kind):
    W, cores = matrix(xp, kind)
    index = np.array([5, -1, 0, 5, 5])
    gy = normal((5, W.shape[1]), kind, 7)
    got = W.gather_rows(index)
    assert is_of(xp, got)
    exact, size = (f(cores)[index] for f in (dense_matrix, magnitude))
    assert_within(to_numpy(got), exact, gamma(kind, cores) * size)
    found = tt.rows.gather_rows_backward(W.cores, index, to_library(xp, gy))
    want = tt.rows.gather_rows_backward(cores, index, gy)
    for g, h in zip(found, want, strict=True):
        assert is_of(xp, g)
        assert norm(to_numpy(g) - h) <= 100 * eps_of(kind) * (norm(h) + norm(gy))


def test_layers_compute_in_the_library_of_their_arrays(xp, kind):
    """Ranks of 9 and 7 are beyond what the modes can use; one input and two outputs are padding."""
    shapes = [(1, 3, 2, 9), (9, 1, 4, 7), (7, 2, 3, 1)]
    cores = [normal(shape, kind, k) for k, shape in enumerate(shapes)]
    x, gy, bias = normal((2, 5, 23), kind, 7), normal((2, 5, 4), kind, 8), normal(4, kind, 9)
    plain = tt.layers.FC(cores, bias, in_features=23, out_features=4)
    other = tt.layers.FC(
        [to_library(xp, core) for core in cores],
        to_library(xp, bias),
        in_features=23,
        out_features=4,
    )
    y = other.forward(to_library(xp, x))
    gx, gcores, gbias = other.backward(to_library(xp, x), to_library(xp, gy))
    assert all(is_of(xp, a) for a in (y, gx, *gcores, gbias, *other.clip().cores))
    ours = plain.backward(x, gy)
    found = [y, gx, *gcores, gbias, other.clip().to_dense(), other.to_dense()]
    exact = [plain.forward(x), ours[0], *ours[1], ours[2], plain.to_dense(), plain.to_dense()]
    for a, b in zip(found, exact, strict=True):
        # both are sums of at most a few thousand products of ordinary numbers
        np.testing.assert_allclose(to_numpy(a), b, atol=1e4 * eps_of(kind) * np.abs(b).max())
