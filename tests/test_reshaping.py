"""Modes permuted, merged, split, joined; trains from other formats; parts of TT-matrices; SciPy."""

import itertools

import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given
from hypothesis import strategies as st

import ttcore as tt

EPS = np.finfo(float).eps
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from(["f4", "f8", "c8", "c16"])


def close(got, want, dtype="f8", factor=500):
    """Entries agree to a few hundred roundings of the largest."""
    want = np.asarray(want)
    assert got.shape == want.shape
    size = max(float(np.abs(want).max()), 1.0)
    np.testing.assert_allclose(got, want, rtol=0, atol=factor * np.finfo(dtype).eps * size)


def shapes_of(n):
    """All ordered factorisations of n, with a mode of 1 here and there."""
    if n == 1:
        return [()]
    found = []
    for k in range(2, n + 1):
        if n % k == 0:
            found += [(k, *rest) for rest in shapes_of(n // k)]
    return found


@given(data=st.data(), shape=SHAPES, dtype=DTYPES)
def test_permute_is_transpose(data, shape, dtype):
    x = tt.random(shape, 3, rng=0, dtype=dtype)
    axes = data.draw(st.permutations(range(len(shape))))
    signed = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    y = x.permute(signed)
    assert y.dtype == x.dtype
    close(y.to_dense(), x.to_dense().transpose(axes), dtype)
    assert y.norm() == pytest.approx(x.norm(), rel=500 * float(np.finfo(dtype).eps))


def test_permute_there_and_back_has_the_ranks_it_had():
    x = tt.random((2, 3, 4, 5), 2, rng=0)
    for axes in itertools.permutations(range(4)):
        back = np.argsort(axes).tolist()
        assert x.permute(axes).permute(back).ranks == x.ranks


@pytest.mark.parametrize("eps", [1e-1, 1e-4, 1e-9])
def test_permute_with_eps_keeps_it(eps):
    x = tt.random((6,) * 5, 6, rng=0)
    weak = sum(10.0**-k * tt.random((6,) * 5, 1, rng=k) for k in range(1, 11))
    x = x * 1e-3 + weak
    y = x.permute((4, 1, 3, 0, 2), eps=eps)
    exact = x.to_dense().transpose(4, 1, 3, 0, 2)
    assert np.linalg.norm(y.to_dense() - exact) <= eps * np.linalg.norm(exact)
    assert y.num_params <= x.permute((4, 1, 3, 0, 2)).num_params
    assert max(x.permute((4, 1, 3, 0, 2), max_rank=2).ranks) <= 2


@pytest.mark.parametrize(
    ("axes", "error"),
    [
        ((0, 1), tt.TTValueError),
        ((0, 1, 1), tt.TTValueError),
        ((0, 1, 3), tt.TTValueError),
        (1, tt.TTTypeError),
        ((0, 1, 2.0), tt.TTTypeError),
    ],
)
def test_permute_refuses_what_is_no_permutation(axes, error):
    with pytest.raises(error, match="axes"):
        tt.ones((2, 3, 4)).permute(axes)


@given(data=st.data(), dtype=DTYPES)
def test_reshape_is_numpys(data, dtype):
    size = data.draw(st.sampled_from([1, 6, 12, 16, 24, 30, 36, 48]))
    old = data.draw(st.sampled_from(shapes_of(size))) or (1,)
    new = list(data.draw(st.sampled_from(shapes_of(size))) or (1,))
    for _ in range(data.draw(st.integers(0, 2))):
        new.insert(data.draw(st.integers(0, len(new))), 1)
        old = (*old[:1], 1, *old[1:])
    x = tt.random(old, 3, rng=0, dtype=dtype)
    asked = list(new)
    if data.draw(st.booleans()):
        asked[data.draw(st.integers(0, len(new) - 1))] = -1
    y = x.reshape(tuple(asked))
    assert y.dtype == x.dtype
    close(y.to_dense(), x.to_dense().reshape(new), dtype)
    assert y.norm() == pytest.approx(x.norm(), rel=500 * float(np.finfo(dtype).eps))


def test_a_function_quantised_has_its_known_ranks():
    """sin over 2^12 points has QTT rank 2."""
    x = tt.from_dense(np.sin(np.arange(4096) * 0.01)).reshape((2,) * 12)
    assert max(x.ranks) == 2
    assert x.reshape(4096).ranks == (1, 1)


def test_reshape_with_eps_rounds():
    x = tt.random((4, 9, 4), 4, rng=0)
    y = x.reshape((6, 6, 4), eps=0.3)
    error = np.linalg.norm(y.to_dense() - x.to_dense().reshape(6, 6, 4))
    assert error <= 0.3 * x.norm()
    assert max(x.reshape((6, 6, 4), max_rank=2).ranks) == 2


@pytest.mark.parametrize(
    ("shape", "error", "words"),
    [
        ((5, 5), tt.TTShapeError, ["(5, 5)", "24"]),
        ((-1, -1), tt.TTShapeError, ["-1"]),
        ((-1, 5), tt.TTShapeError, ["24"]),
        ((24, 0), tt.TTShapeError, ["24"]),
        ((), tt.TTShapeError, ["24"]),
        ("ab", tt.TTTypeError, ["'ab'"]),
        ((2.0, 12), tt.TTTypeError, ["2.0"]),
    ],
    ids=str,
)
def test_reshape_refuses_other_sizes(shape, error, words):
    with pytest.raises(error) as caught:
        tt.ones((2, 3, 4)).reshape(shape)
    assert [word for word in words if word not in str(caught.value)] == []


def test_modes_that_share_no_boundary_are_refused_before_they_become_dense():
    x = tt.ones((2,) * 30 + (3,))
    with pytest.raises(tt.TTSizeError, match="share no boundary"):
        x.reshape((3, *(2,) * 30))
    assert x.reshape((6, *(2,) * 29)[::-1]).shape == (*(2,) * 29, 6)


@given(data=st.data(), shape=SHAPES, dtype=DTYPES, other=DTYPES)
def test_concatenate_and_stack_are_numpys(data, shape, dtype, other):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    second = list(shape)
    second[axis] = data.draw(st.integers(1, 3))
    x, y = tt.random(shape, 2, rng=0, dtype=dtype), tt.random(second, 3, rng=1, dtype=other)
    z = tt.concatenate([x, y, x], axis=axis)
    want = np.concatenate([x.to_dense(), y.to_dense(), x.to_dense()], axis=axis)
    assert z.dtype == want.dtype
    coarse = max(dtype, other, key=lambda name: np.finfo(name).eps)
    close(z.to_dense(), want, coarse)
    place = data.draw(st.integers(-len(shape) - 1, len(shape)))
    close(
        tt.stack([x, 2 * x], axis=place).to_dense(),
        np.stack([x.to_dense(), 2 * x.to_dense()], axis=place),
        dtype,
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: tt.concatenate([]), tt.TTTypeError),
        (lambda: tt.concatenate(tt.ones((2, 2))), tt.TTTypeError),
        (lambda: tt.concatenate([tt.ones((2, 2)), np.ones((2, 2))]), tt.TTTypeError),
        (lambda: tt.concatenate([tt.ones((2, 2)), tt.ones((2, 3))]), tt.TTShapeError),
        (lambda: tt.concatenate([tt.ones((2, 2)), tt.ones((2,))]), tt.TTShapeError),
        (lambda: tt.concatenate([tt.ones((2, 2))], axis=2), tt.TTIndexError),
        (lambda: tt.stack([tt.ones((2, 2)), tt.ones((2, 3))]), tt.TTShapeError),
        (lambda: tt.stack([tt.ones((2, 2))], axis=3), tt.TTIndexError),
        (tt.kron, tt.TTTypeError),
        (lambda: tt.kron(tt.eye(2), tt.ones(2)), tt.TTTypeError),
        (lambda: tt.kron(np.ones((2, 2, 2))), tt.TTShapeError),
        (lambda: tt.diag(tt.eye(2)), tt.TTTypeError),
        (lambda: tt.from_cp([]), tt.TTShapeError),
        (lambda: tt.from_cp([np.ones((2, 2)), np.ones((2, 3))]), tt.TTShapeError),
        (lambda: tt.from_cp([np.ones((2, 2))], np.ones(3)), tt.TTShapeError),
        (lambda: tt.from_tucker(np.ones((2, 2)), [np.ones((3, 2))]), tt.TTShapeError),
        (
            lambda: tt.from_tucker(np.ones((2, 2)), [np.ones((3, 2)), np.ones((2, 3))]),
            tt.TTShapeError,
        ),
        (lambda: tt.random_matrix((2, 3), (3, 2), 2).diagonal(), tt.TTShapeError),
        (lambda: tt.random_matrix((2, 3), (3, 2), 2).trace(), tt.TTShapeError),
        (lambda: tt.eye((2, 3)).sum(axis=2), tt.TTIndexError),
        (lambda: tt.eye((2, 3))[6, 0], tt.TTIndexError),
        (lambda: tt.eye((2, 3))[0, -7], tt.TTIndexError),
        (lambda: tt.eye((2, 3))[0, 0, 0], tt.TTIndexError),
        (lambda: tt.eye((2, 3))[:, :], tt.TTIndexError),
        (lambda: tt.eye((2, 3))[0:2, 0], tt.TTIndexError),
        (lambda: tt.eye((2, 3))["a"], tt.TTIndexError),
    ],
)
def test_wrong_arguments_are_refused(call, error):
    with pytest.raises(error):
        call()


def test_kron_of_matrices_vectors_and_trains():
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((2, 3)), rng.standard_normal((4, 2))
    W = tt.random_matrix((2, 3), (3, 2), 2, rng=0)
    K = tt.kron([A, W, B])
    assert isinstance(K, tt.TTMatrix)
    assert K.row_modes == (2, 2, 3, 4)
    close(K.to_dense(), np.kron(np.kron(A, W.to_dense()), B))
    x = tt.kron(tt.ones((2, 3)), np.array([1.0, 2.0]))
    assert x.shape == (2, 3, 2)
    close(x.to_dense(), np.multiply.outer(np.ones((2, 3)), [1.0, 2.0]))


@given(shape=SHAPES, dtype=DTYPES)
def test_diag_and_diagonal_are_inverse(shape, dtype):
    x = tt.random(shape, 3, rng=0, dtype=dtype)
    D = tt.diag(x)
    assert D.ranks == x.ranks
    close(D.to_dense(), np.diag(x.to_dense().ravel()), dtype)
    close(D.diagonal().to_dense(), x.to_dense(), dtype)
    assert D.trace() == pytest.approx(complex(x.to_dense().sum()), abs=1e-4)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), DTYPES, st.booleans())
def test_from_cp_is_the_sum_of_outer_products(modes, dtype, weighted):
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 3)).astype(dtype) for n in modes]
    weights = np.array([1.0, -2.0, 0.5]).astype(dtype) if weighted else None
    x = tt.from_cp(factors, weights)
    want = 0
    for r in range(3):
        term = np.ones(()) * (weights[r] if weighted else 1)
        for f in factors:
            term = np.multiply.outer(term, f[:, r])
        want = want + term
    assert x.dtype == np.dtype(dtype)
    close(x.to_dense(), want, dtype)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), DTYPES)
def test_from_tucker_applies_the_factors(modes, dtype):
    rng = np.random.default_rng(0)
    core = rng.standard_normal(modes).astype(dtype)
    factors = [rng.standard_normal((k + 2, n)).astype(dtype) for k, n in enumerate(modes)]
    want = core
    for k, f in enumerate(factors):
        want = np.moveaxis(np.tensordot(f, want, axes=(1, k)), 0, k)
    x = tt.from_tucker(core, factors)
    assert x.dtype == np.dtype(dtype)
    close(x.to_dense(), want, dtype)


@given(data=st.data(), dtype=DTYPES)
def test_parts_of_a_matrix(data, dtype):
    modes = data.draw(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)
    )
    rows, cols = zip(*modes, strict=True)
    W = tt.random_matrix(rows, cols, 3, rng=0, dtype=dtype)
    A = W.to_dense()
    M, N = W.shape
    i, j = data.draw(st.integers(-M, M - 1)), data.draw(st.integers(-N, N - 1))
    assert abs(W[i, j] - A[i, j]) <= 500 * np.finfo(dtype).eps * max(1, np.abs(A).max())
    close(W[i, :].to_dense(), A[i].reshape(cols), dtype)
    close(W[i].to_dense(), A[i].reshape(cols), dtype)
    close(W[:, j].to_dense(), A[:, j].reshape(rows), dtype)
    close(W.sum(axis=0).to_dense(), A.sum(axis=0).reshape(cols), dtype)
    close(W.sum(axis=-1).to_dense(), A.sum(axis=1).reshape(rows), dtype)
    assert complex(W.sum()) == pytest.approx(
        complex(A.sum()), abs=float(500 * np.finfo(dtype).eps * np.abs(A).sum()) + 1e-6
    )
    assert len(W) == M
    assert [row.shape for row in W] == [cols] * M
    assert isinstance(W[np.int8(0), 0], complex if dtype[0] == "c" else float)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), DTYPES)
def test_trace_is_the_sum_of_the_diagonal(modes, dtype):
    W = tt.random_matrix(modes, modes, 3, rng=0, dtype=dtype)
    A = W.to_dense()
    close(W.diagonal().to_dense(), np.diagonal(A).reshape(modes), dtype)
    assert complex(W.trace()) == pytest.approx(
        complex(np.trace(A)), abs=1e-4 if dtype in {"f4", "c8"} else 1e-12
    )


def laplace(modes):
    """The sum over k of I x .. x tridiag(-1, 2, -1) x .. x I, of ranks 2."""
    terms = []
    for k, n in enumerate(modes):
        second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        terms.append(tt.kron([second if m == k else np.eye(size) for m, size in enumerate(modes)]))
    return tt.round_sum([(1.0, term) for term in terms], eps=1e-13)


def test_scipys_solvers_take_a_matrix():
    W = laplace((5, 6, 7))
    assert W.ranks == (1, 2, 2, 1)
    A, dense = W.to_linear_operator(), W.to_dense()
    assert A.shape == (210, 210)
    assert A.dtype == np.float64
    b = np.random.default_rng(0).standard_normal(210)
    exact = np.linalg.solve(dense, b)
    for solve in (scipy.sparse.linalg.cg, scipy.sparse.linalg.gmres):
        x, code = solve(A, b, rtol=1e-10)
        assert code == 0
        assert np.linalg.norm(dense @ x - b) <= 1e-9 * np.linalg.norm(b)
        np.testing.assert_allclose(x, exact, atol=1e-7)
    values = scipy.sparse.linalg.eigsh(A, k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(dense)[-3:], rtol=1e-9)
    np.testing.assert_allclose(A @ np.eye(210)[:, :4], dense[:, :4], atol=1e-12)


def test_scipys_svds_takes_a_complex_rectangular_matrix():
    W = tt.random_matrix((4, 5), (3, 6), 3, rng=0, dtype=complex)
    A = W.to_linear_operator()
    s = scipy.sparse.linalg.svds(A, k=3, return_singular_vectors=False, rng=0)
    exact = np.linalg.svd(W.to_dense(), compute_uv=False)[:3]
    np.testing.assert_allclose(np.sort(s)[::-1], exact, rtol=1e-9)
    y = np.arange(20) + 1j
    np.testing.assert_allclose(A.rmatvec(y), W.to_dense().conj().T @ y, atol=1e-10)


def test_large_trains_are_reshaped_and_permuted_without_anything_dense():
    x = tt.random((4,) * 60, 3, rng=0)
    assert x.reshape((2,) * 120).reshape((8,) * 40).shape == (8,) * 40
    y = x.permute([59, *range(59)], max_rank=9)
    assert y.shape == x.shape
    z = tt.concatenate([x, x], axis=30)
    assert z.log_norm() == pytest.approx(x.log_norm() + 0.5 * np.log(2), abs=1e-9)
    W = tt.diag(x)
    assert W[12345678901234567890, 12345678901234567890] == pytest.approx(
        W.diagonal().gather([_digits(12345678901234567890, 60)])[0]
    )
    assert tt.kron([tt.eye((4,) * 30)] * 2).trace() == float(4**60)


def _digits(number, d):
    return [number // 4 ** (d - 1 - k) % 4 for k in range(d)]
