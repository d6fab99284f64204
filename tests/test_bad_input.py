"""Every kind of bad input is refused with what came, what was expected and how to mend it."""

import math
import tracemalloc

import numpy as np
import pytest

import ttcore as tt

NAN, INF = math.nan, math.inf


def cores(*shapes):
    return [np.ones(shape) for shape in shapes]


def with_entry(value, shape=(3, 4), dtype=float):
    a = np.ones(shape, dtype)
    a.flat[5 % a.size] = value
    return a


X = (3, 4)  # the shape of most tensors below

# id: (what is done, the exception, what its message must contain)
CASES = {
    # making trains from cores
    "no cores": (lambda: tt.TTTensor([]), tt.TTShapeError, ["core"]),
    "core of two axes": (
        lambda: tt.TTTensor([np.ones((1, 3, 2)), np.ones((2, 4))]),
        tt.TTShapeError,
        ["core 1", "(2, 4)"],
    ),
    "matrix core in a tensor": (
        lambda: tt.TTTensor(cores((1, 2, 3, 1))),
        tt.TTShapeError,
        ["core 0", "(1, 2, 3, 1)", "TTMatrix"],
    ),
    "tensor core in a matrix": (
        lambda: tt.TTMatrix(cores((1, 6, 1))),
        tt.TTShapeError,
        ["core 0", "(1, 6, 1)", "TTTensor"],
    ),
    "ranks that do not meet": (
        lambda: tt.TTTensor(cores((1, 3, 2), (5, 4, 1))),
        tt.TTShapeError,
        ["core 0", "core 1", "2", "5"],
    ),
    "first rank": (lambda: tt.TTTensor(cores((2, 3, 1))), tt.TTShapeError, ["core 0", "2", "1"]),
    "last rank": (
        lambda: tt.TTTensor(cores((1, 3, 2), (2, 4, 7))),
        tt.TTShapeError,
        ["core 1", "7", "1"],
    ),
    "inner rank 0": (
        lambda: tt.TTTensor(cores((1, 3, 0), (0, 4, 1))),
        tt.TTShapeError,
        ["rank 0", "zeros"],
    ),
    "empty mode": (lambda: tt.TTTensor(cores((1, 0, 1))), tt.TTShapeError, ["core 0", "0"]),
    "cores that are strings": (lambda: tt.TTTensor(["a"]), tt.TTTypeError, ["core 0", "<U1"]),
    "cores of objects": (
        lambda: tt.TTTensor([np.full((1, 2, 1), None)]),
        tt.TTTypeError,
        ["object"],
    ),
    "cores of strings": (
        lambda: tt.TTTensor([np.full((1, 2, 1), "a")]),
        tt.TTTypeError,
        ["<U1"],
    ),
    "one array for all cores": (lambda: tt.TTTensor(5), tt.TTTypeError, ["int", "cores"]),
    "longdouble cores": (
        lambda: tt.TTTensor([np.ones((1, 2, 1), np.longdouble)]),
        tt.TTTypeError,
        [np.dtype(np.longdouble).name, "float64"],
    ),
    "clongdouble cores": (
        lambda: tt.TTTensor([np.ones((1, 2, 1), np.clongdouble)]),
        tt.TTTypeError,
        [np.dtype(np.clongdouble).name, "complex128"],
    ),
    # dense arrays
    "no modes": (lambda: tt.from_dense(np.array(3.0)), tt.TTShapeError, ["()"]),
    "empty array": (lambda: tt.from_dense(np.ones((3, 0))), tt.TTShapeError, ["(3, 0)"]),
    "longdouble array": (
        lambda: tt.from_dense(np.ones(X, np.longdouble)),
        tt.TTTypeError,
        [np.dtype(np.longdouble).name, "float64"],
    ),
    "strings": (lambda: tt.from_dense(np.array(["a", "b"])), tt.TTTypeError, ["<U1"]),
    "NaN": (lambda: tt.from_dense(with_entry(NAN)), tt.TTValueError, ["NaN", "(1, 1)"]),
    "infinity": (lambda: tt.from_dense(with_entry(INF)), tt.TTValueError, ["inf", "(1, 1)"]),
    "complex NaN": (
        lambda: tt.from_dense(with_entry(complex(0, NAN), dtype=complex)),
        tt.TTValueError,
        ["NaN"],
    ),
    "NaN in one mode": (lambda: tt.from_dense(with_entry(NAN, (4,))), tt.TTValueError, ["NaN"]),
    "NaN in a matrix": (
        lambda: tt.matrix_from_dense(with_entry(NAN, (4, 4)), (2, 2), (2, 2)),
        tt.TTValueError,
        ["NaN"],
    ),
    "train for an array": (lambda: tt.from_dense(tt.ones(X)), tt.TTTypeError, ["TTTensor"]),
    # matrices from dense ones
    "row modes": (
        lambda: tt.matrix_from_dense(np.ones((15, 4)), (4, 4), (2, 2)),
        tt.TTShapeError,
        ["row_modes (4, 4) multiply to 16, but A has 15 rows", "choose modes", "15", "pad"],
    ),
    "column modes": (
        lambda: tt.matrix_from_dense(np.ones((16, 5)), (4, 4), (2, 2)),
        tt.TTShapeError,
        ["col_modes (2, 2) multiply to 4, but A has 5 columns", "choose modes", "5", "pad"],
    ),
    "numbers of modes": (
        lambda: tt.matrix_from_dense(np.ones((16, 4)), (4, 4), (4,)),
        tt.TTShapeError,
        ["row_modes", "col_modes", "(4, 4)", "(4,)"],
    ),
    "matrix of three axes": (
        lambda: tt.matrix_from_dense(np.ones((2, 2, 2)), (2,), (4,)),
        tt.TTShapeError,
        ["(2, 2, 2)"],
    ),
    # how exact
    "negative eps": (lambda: tt.from_dense(np.ones(X), eps=-0.1), tt.TTValueError, ["eps", "-0.1"]),
    "NaN eps": (lambda: tt.from_dense(np.ones(X), eps=NAN), tt.TTValueError, ["eps", "nan"]),
    "eps as a string": (lambda: tt.from_dense(np.ones(X), eps="1e-3"), tt.TTTypeError, ["eps"]),
    "max_rank 0": (
        lambda: tt.from_dense(np.ones(X), max_rank=0),
        tt.TTValueError,
        ["max_rank", "0"],
    ),
    "max_rank 2.5": (
        lambda: tt.from_dense(np.ones(X), max_rank=2.5),
        tt.TTTypeError,
        ["max_rank", "2.5"],
    ),
    "too many max_ranks": (
        lambda: tt.from_dense(np.ones(X), max_rank=(2, 3, 4)),
        tt.TTValueError,
        ["max_rank", "3", "1"],
    ),
    "eps of round": (lambda: tt.ones(X).round(eps=-1), tt.TTValueError, ["eps", "-1"]),
    "atol of round": (lambda: tt.ones(X).round(atol=-1), tt.TTValueError, ["atol", "-1"]),
    "method of round": (
        lambda: tt.ones(X).round(method="magic"),
        tt.TTValueError,
        ["magic", "svd", "gram", "randomized"],
    ),
    "max_rank of round": (
        lambda: tt.ones(X).round(max_rank=-2),
        tt.TTValueError,
        ["max_rank", "-2"],
    ),
    "centre": (lambda: tt.ones(X).orthogonalize(2), tt.TTIndexError, ["2"]),
    "nothing to sum": (lambda: tt.round_sum([]), tt.TTValueError, ["round_sum"]),
    # making
    "shape with 0": (lambda: tt.zeros((3, 0)), tt.TTShapeError, ["(3, 0)"]),
    "negative shape": (lambda: tt.ones((3, -2)), tt.TTShapeError, ["-2"]),
    "empty shape": (lambda: tt.ones(()), tt.TTShapeError, ["()"]),
    "eye of 0": (lambda: tt.eye((2, 0)), tt.TTShapeError, ["(2, 0)"]),
    "number of ranks": (
        lambda: tt.random((2, 3, 4), (2, 2, 2), rng=0),
        tt.TTValueError,
        ["ranks", "3", "2"],
    ),
    "rank 0": (lambda: tt.random((2, 3), 0, rng=0), tt.TTValueError, ["rank", "0"]),
    "outer ranks": (
        lambda: tt.random((2, 3), (2, 2, 1), rng=0),
        tt.TTValueError,
        ["(2, 2, 1)", "1"],
    ),
    "dtype of random": (
        lambda: tt.random((2, 3), 2, rng=0, dtype=np.longdouble),
        tt.TTTypeError,
        [np.dtype(np.longdouble).name],
    ),
    "random integers": (lambda: tt.random((2, 3), 2, rng=0, dtype=int), tt.TTTypeError, ["int"]),
    "modes of random_matrix": (
        lambda: tt.random_matrix((2, 3), (2,), 2, rng=0),
        tt.TTShapeError,
        ["(2, 3)", "(2,)"],
    ),
    "no vectors": (lambda: tt.rank_one([]), tt.TTShapeError, ["vector"]),
    "matrices for vectors": (
        lambda: tt.rank_one([np.ones(2), np.ones((2, 3))]),
        tt.TTShapeError,
        ["vector", "1", "(2, 3)"],
    ),
    # arithmetic
    "modes of a sum": (
        lambda: tt.ones((3, 4)) + tt.ones((3, 5)),
        tt.TTShapeError,
        ["(3, 4)", "(3, 5)"],
    ),
    "modes of a product": (
        lambda: tt.ones((3, 4)) * tt.ones((2, 4)),
        tt.TTShapeError,
        ["(3, 4)", "(2, 4)"],
    ),
    "modes of vdot": (
        lambda: tt.vdot(tt.ones((3, 4)), tt.ones((4, 3))),
        tt.TTShapeError,
        ["(3, 4)", "(4, 3)"],
    ),
    "no broadcasting in vdot": (
        lambda: tt.vdot(tt.ones((3, 4)), tt.ones((4,))),
        tt.TTShapeError,
        ["(3, 4)", "(4,)"],
    ),
    "modes of distance": (
        lambda: tt.distance(tt.ones((3, 4)), tt.ones((4, 3))),
        tt.TTShapeError,
        ["(3, 4)", "(4, 3)"],
    ),
    "array in vdot": (lambda: tt.vdot(tt.ones(X), np.ones(X)), tt.TTTypeError, ["from_dense"]),
    "modes of matrices": (
        lambda: tt.eye((2, 3)) + tt.eye((3, 2)),
        tt.TTShapeError,
        ["(2, 3)", "(3, 2)"],
    ),
    "tensor and matrix": (
        lambda: tt.ones((2, 3)) + tt.eye((2, 3)),
        tt.TTTypeError,
        ["TTTensor", "TTMatrix"],
    ),
    "division by zero": (lambda: tt.ones(X) / 0, (tt.TTError, ZeroDivisionError), []),
    "axis": (lambda: tt.ones(X).sum(axis=2), tt.TTIndexError, ["axis", "2"]),
    "negative axis": (lambda: tt.ones(X).mean(axis=-3), tt.TTIndexError, ["axis", "-3"]),
    "repeated axis": (lambda: tt.ones(X).sum(axis=(0, -2)), tt.TTValueError, ["axis", "0"]),
    "float axis": (lambda: tt.ones(X).sum(axis=1.0), TypeError, ["1.0"]),
    "truth": (lambda: bool(tt.ones(X)), tt.TTValueError, ["truth"]),
    "complex to real": (
        lambda: (tt.ones(X) * 1j).astype(float),
        tt.TTTypeError,
        ["complex128", "float64", ".real"],
    ),
    "longdouble scalar": (
        lambda: tt.ones(X) * np.longdouble(2),
        tt.TTTypeError,
        [np.dtype(np.longdouble).name],
    ),
    # products
    "length of a vector": (
        lambda: tt.eye((2, 3)) @ np.ones(7),
        tt.TTShapeError,
        ["7", "6", "(2, 3)"],
    ),
    "rows for columns": (
        lambda: tt.eye((2, 3)) @ np.ones((5, 6)),
        tt.TTShapeError,
        ["(5, 6)", "6", "apply"],
    ),
    "vector on the left": (
        lambda: np.ones(7) @ tt.eye((2, 3)),
        tt.TTShapeError,
        ["7", "6"],
    ),
    "rows of apply": (
        lambda: tt.eye((2, 3)).apply(np.ones((5, 7))),
        tt.TTShapeError,
        ["(5, 7)", "6"],
    ),
    "scalar to apply": (lambda: tt.eye((2, 3)).apply(np.array(1.0)), tt.TTShapeError, ["()", "6"]),
    "tensor of other modes": (
        lambda: tt.eye((2, 3)) @ tt.ones((3, 2)),
        tt.TTShapeError,
        ["(2, 3)", "(3, 2)"],
    ),
    "matrix of other modes": (
        lambda: tt.eye((2, 3)) @ tt.eye((6,)),
        tt.TTShapeError,
        ["(2, 3)", "(6,)"],
    ),
    "tensor @ tensor": (lambda: tt.ones(X) @ tt.ones(X), TypeError, []),
    "rows of matvec": (
        lambda: tt.linear.matvec(tt.eye((2, 3)).cores, np.ones((5, 7))),
        tt.TTShapeError,
        ["(5, 7)", "6"],
    ),
    "vector to matvec": (
        lambda: tt.linear.matvec(tt.eye((2, 3)).cores, np.ones(6)),
        tt.TTShapeError,
        ["(6,)", "batch"],
    ),
    "rows of gy": (
        lambda: tt.linear.matvec_backward(tt.eye((2, 3)).cores, np.ones((5, 6)), np.ones((4, 6))),
        tt.TTShapeError,
        ["gy", "(4, 6)", "5"],
    ),
    "longdouble vector": (
        lambda: tt.eye((2, 3)) @ np.ones(6, np.longdouble),
        tt.TTTypeError,
        [np.dtype(np.longdouble).name, "float64"],
    ),
    "string vector": (lambda: tt.eye((2,)) @ np.array(["a", "b"]), tt.TTTypeError, ["<U1"]),
    "batch of a plan": (lambda: tt.eye((2, 3)).plan(batch=-1), tt.TTValueError, ["batch", "-1"]),
    # sizes
    "to_dense": (
        lambda: tt.ones((10,) * 60).to_dense(),
        tt.TTSizeError,
        ["8" + "0" * 60, "max_bytes"],
    ),
    "to_dense of 2000 cores": (
        lambda: tt.ones((10,) * 2000).to_dense(),
        tt.TTSizeError,
        ["max_bytes"],
    ),
    "asarray": (lambda: np.asarray(tt.ones((10,) * 60)), tt.TTSizeError, ["to_dense", "max_bytes"]),
    "matrix to_dense": (lambda: tt.eye((10,) * 10).to_dense(), tt.TTSizeError, ["max_bytes"]),
    "matrix asarray": (lambda: np.asarray(tt.eye((10,) * 10)), tt.TTSizeError, ["max_bytes"]),
    "small max_bytes": (
        lambda: tt.ones((10, 10)).to_dense(max_bytes=799),
        tt.TTSizeError,
        ["800", "799", "max_bytes"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_a_message_that_helps(name):
    action, exception, fragments = CASES[name]
    with pytest.raises(exception) as error:
        action()
    message = str(error.value)
    assert [part for part in fragments if part.lower() not in message.lower()] == [], message


@pytest.mark.parametrize("name", CASES)
def test_messages_are_short(name):
    action, exception, _ = CASES[name]
    with pytest.raises(exception) as error:
        action()
    assert len(str(error.value)) <= 400


@pytest.mark.parametrize(("name", "base"), [
    ("TTShapeError", ValueError), ("TTValueError", ValueError), ("TTSizeError", ValueError),
    ("TTFormatError", ValueError), ("TTTypeError", TypeError), ("TTIndexError", IndexError),
    ("TTConvergenceError", np.linalg.LinAlgError),
])  # fmt: skip
def test_errors_are_also_those_that_numpy_would_raise(name, base):
    kind = getattr(tt, name)
    assert issubclass(kind, base)
    assert issubclass(kind, tt.TTError)
    assert issubclass(tt.TTError, Exception)


@pytest.mark.parametrize("shape", [(2**11,) * 3, (10,) * 9], ids=str)
@pytest.mark.parametrize(
    "make_dense", [lambda x: x.to_dense(), np.asarray], ids=["to_dense", "asarray"]
)
def test_size_is_refused_before_anything_is_allocated(make_dense, shape):
    """Sizes that would start to be built, piece by piece, if the check came late."""
    x = tt.ones((*shape, 4))
    tracemalloc.start()
    try:
        with pytest.raises(tt.TTSizeError):
            make_dense(x)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_max_bytes_is_the_last_size_allowed():
    assert tt.ones((10, 10)).to_dense(max_bytes=800).shape == (10, 10)
    assert tt.eye((10,)).to_dense(max_bytes=800).shape == (10, 10)
    assert tt.ones((10, 10)).astype(np.float32).to_dense(max_bytes=400).nbytes == 400


MIXED = {
    "array + train": lambda a, x: a + x,
    "train + array": lambda a, x: x + a,
    "array - train": lambda a, x: a - x,
    "train - array": lambda a, x: x - a,
    "array * train": lambda a, x: a * x,
    "train * array": lambda a, x: x * a,
    "train / array": lambda a, x: x / a,
}


@pytest.mark.parametrize("train", [tt.ones, tt.eye], ids=["tensor", "matrix"])
@pytest.mark.parametrize("name", MIXED)
def test_an_array_beside_a_train_is_a_type_error_that_names_from_dense(name, train):
    x = train((3, 4))
    with pytest.raises(TypeError, match="from_dense"):
        MIXED[name](np.ones((3, 4)), x)


def test_lists_and_strings_do_not_add_to_trains():
    for other in ([1, 2, 3], "a", None, {}):
        with pytest.raises(TypeError):
            tt.ones((3,)) + other
        with pytest.raises(TypeError):
            other * tt.eye((3,))


def test_nan_and_infinite_scalars_go_into_the_cores_without_warning():
    """As in NumPy: scalars are the caller's business."""
    assert np.isnan((tt.ones((2, 2)) * NAN).to_dense()).all()


@pytest.mark.parametrize("method", ["svd", "gram", "randomized"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_rounding_nan_or_infinite_cores_is_refused_by_name(method, value):
    cores_ = [core.copy() for core in tt.random((3, 4, 5), 2, rng=0).cores]
    cores_[1][0, 2, 1] = value
    options = {"rng": 0} if method == "randomized" else {}
    with pytest.raises(tt.TTValueError, match=r"(?i)nan|inf") as error:
        tt.TTTensor(cores_).round(eps=1e-3, method=method, **options)
    assert "core 1" in str(error.value)
