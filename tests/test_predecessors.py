"""Layers of other programs: against restatements of their forward passes, on their own layouts.

Each restatement takes what the program stores and follows its steps; none shares code with the
conversion.
"""

import numpy as np
import pytest

import ttcore as tt
from ttcore.layers import (
    from_t3f,
    from_tensornet_matlab,
    from_tensornet_tf,
    from_tensornet_tf_2016,
    from_tensornet_theano,
)

SHAPES = {
    "unequal": ((3, 4, 2, 5), (2, 5, 3, 4), (1, 3, 6, 4, 1)),
    "over-full": ((2, 3), (1, 2), (1, 13, 1)),
    "one core": ((7,), (4,), (1, 1)),
    "mode of 1": ((1, 5, 2), (3, 1, 2), (1, 2, 3, 1)),
}
BATCH = 7


def problem(name):
    ins, outs, ranks = SHAPES[name]
    rng = np.random.default_rng(0)
    sizes = [
        ranks[k] * m * n * ranks[k + 1] for k, (m, n) in enumerate(zip(outs, ins, strict=True))
    ]
    blocks = [rng.standard_normal(size) for size in sizes]
    x = rng.standard_normal((BATCH, np.prod(ins)))
    return ins, outs, ranks, blocks, x, rng.standard_normal(np.prod(outs))


def agree(layer, x, y):
    """Sums of a few hundred products in float64, of ordinary size."""
    np.testing.assert_allclose(layer.forward(x), y, rtol=0, atol=1e-13 * np.abs(y).max())


@pytest.mark.parametrize("name", SHAPES)
def test_tensornet_tf(name):
    """The processed output mode goes to the right end while the batch moves to the front."""
    ins, outs, ranks, blocks, x, bias = problem(name)
    stored = [
        block.reshape(outs[k] * ranks[k + 1], ranks[k] * ins[k]) for k, block in enumerate(blocks)
    ]
    state = x.T
    for k, core in enumerate(stored):
        state = core @ state.reshape(ranks[k] * ins[k], -1)
        state = state.reshape(outs[k], -1).T
    y = state.reshape(BATCH, -1) + bias
    layer = from_tensornet_tf(stored, ins, outs, bias=bias)
    assert (layer.in_modes, layer.out_modes, layer.ranks) == (ins, outs, ranks)
    agree(layer, x, y)
    agree(from_tensornet_tf(stored, ins, outs), x, y - bias)


@pytest.mark.parametrize("name", SHAPES)
def test_tensornet_tf_first_release(name):
    """Blocks (r_k-1 in_k, out_k r_k), core after core, as matrix_svd writes them."""
    ins, outs, ranks, blocks, x, bias = problem(name)
    state = x[:, None, :]  # (B, outputs done, r inputs left)
    for k, block in enumerate(blocks):
        core = block.reshape(ranks[k] * ins[k], outs[k] * ranks[k + 1])
        done = state.shape[1]
        state = state.reshape(BATCH * done, ranks[k] * ins[k], -1)
        state = np.matmul(core.T, state)  # (B done, out r', left)
        state = state.reshape(BATCH, done * outs[k], -1)
    y = state.reshape(BATCH, -1) + bias
    layer = from_tensornet_tf_2016(np.concatenate(blocks), ins, outs, ranks, bias=bias)
    assert layer.ranks == ranks
    agree(layer, x, y)


def test_what_matrix_svd_returns_for_a_matrix_in_by_out():
    """An untruncated TT-SVD of (in, out), its blocks (r, in_k, out_k, r') in a row."""
    rng = np.random.default_rng(0)
    matrix, ins, outs = rng.standard_normal((24, 30)), (4, 3, 2), (2, 3, 5)
    axes = (0, 3, 1, 4, 2, 5)
    left, blocks, rank, ranks = matrix.reshape(*ins, *outs).transpose(axes), [], 1, [1]
    for n, m in zip(ins[:-1], outs[:-1], strict=True):
        u, s, vh = np.linalg.svd(left.reshape(rank * n * m, -1), full_matrices=False)
        blocks.append(u.ravel())
        left, rank = s[:, None] * vh, len(s)
        ranks.append(rank)
    blocks.append(left.ravel())
    x = rng.standard_normal((BATCH, 24))
    agree(from_tensornet_tf_2016(np.concatenate(blocks), ins, outs, [*ranks, 1]), x, x @ matrix)


@pytest.mark.parametrize("name", SHAPES)
def test_tensornet_theano(name):
    """The vector is read from its beginning, for core d first."""
    ins, outs, ranks, blocks, x, bias = problem(name)
    stored = np.concatenate(blocks[::-1])
    state, position = x, 0
    for k in reversed(range(len(ins))):
        rows, columns = ins[k] * ranks[k + 1], ranks[k] * outs[k]
        core = stored[position : position + rows * columns].reshape(rows, columns)
        position += rows * columns
        state = state.reshape(-1, rows) @ core
        state = state.reshape(-1, outs[k]).T
    y = state.reshape(-1, BATCH).T + bias
    agree(from_tensornet_theano(stored, ins, outs, ranks, bias=bias), x, y)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (1, -1)], ids=["vector", "column", "row"])
def test_tensornet_matlab(name, shape):
    """The matrix of TT-Toolbox, element by element: mode 1 is the fastest in rows and columns."""
    ins, outs, ranks, blocks, x, bias = problem(name)
    cores = [
        block.reshape((ranks[k], outs[k], ins[k], ranks[k + 1]), order="F")
        for k, block in enumerate(blocks)
    ]
    full = np.empty((np.prod(outs), np.prod(ins)))
    for row in range(full.shape[0]):
        i = np.unravel_index(row, outs, order="F")
        for column in range(full.shape[1]):
            j = np.unravel_index(column, ins, order="F")
            value = np.eye(1)
            for k, core in enumerate(cores):
                value = value @ core[:, i[k], j[k], :]
            full[row, column] = value.item()
    stored = np.concatenate(blocks).reshape(shape)
    layer = from_tensornet_matlab(stored, ins, outs, ranks, bias=bias.reshape(1, 1, -1))
    assert (layer.in_modes, layer.ranks) == (ins[::-1], ranks[::-1])
    agree(layer, x, x @ full.T + bias)
    agree(from_tensornet_matlab(stored, ins, outs, ranks, bias=np.zeros((0, 0))), x, x @ full.T)


def test_tensornet_matlab_takes_images_as_its_page_says():
    """H x W x C x B there, (B, C, H, W) here."""
    rng = np.random.default_rng(0)
    ins, outs, ranks = (4, 3, 2), (2, 2, 2), (1, 2, 2, 1)  # modes H, W, C
    stored = rng.standard_normal(2 * 4 * 2 + 2 * 2 * 3 * 2 + 2 * 2 * 2)
    layer = from_tensornet_matlab(stored, ins, outs, ranks)
    images = rng.standard_normal((BATCH, 2, 4, 3))  # (B, C, H, W)
    theirs = images.transpose(2, 3, 1, 0)  # (H, W, C, B)
    vectors = theirs.reshape((24, BATCH), order="F").T
    rows = images.transpose(0, 1, 3, 2).reshape(BATCH, -1)
    assert (rows == vectors).all()
    assert layer.forward(rows).shape == (BATCH, 8)


@pytest.mark.parametrize("name", SHAPES)
def test_t3f(name):
    """y = x W with W[i, j] the product of core[:, i_k, j_k, :]; i over inputs, in C order."""
    ins, outs, ranks, blocks, x, bias = problem(name)
    cores = [
        block.reshape(ranks[k], ins[k], outs[k], ranks[k + 1]) for k, block in enumerate(blocks)
    ]
    W = np.ones((1, 1, 1))
    for core in cores:
        W = np.einsum("ijr,rmns->imjns", W, core)
        W = W.reshape(W.shape[0] * W.shape[1], -1, core.shape[3])
    agree(from_t3f(cores, bias=bias), x, x @ W[:, :, 0] + bias)


def test_values_are_moved_not_changed_and_the_arguments_kept():
    ins, outs, ranks, blocks, _, _ = problem("unequal")
    stored = np.concatenate(blocks).astype(np.float32)
    before = stored.tobytes()
    for convert in (from_tensornet_tf_2016, from_tensornet_theano, from_tensornet_matlab):
        layer = convert(stored, ins, outs, ranks)
        values = np.concatenate([g.ravel() for g in layer.cores])
        assert values.dtype == np.float32
        assert np.sort(values).tolist() == np.sort(stored).tolist()
        assert convert(stored, ins, outs, ranks[1:-1]).ranks == layer.ranks
    assert stored.tobytes() == before


BAD = {
    "tf, columns": (
        lambda: from_tensornet_tf([np.ones((4, 3))], (2,), (4,)),
        ["core 0", "(4, 3)", "(4 r, 2)"],
    ),
    "tf, rows": (lambda: from_tensornet_tf([np.ones((5, 2))], (2,), (4,)), ["core 0", "(5, 2)"]),
    "tf, number": (
        lambda: from_tensornet_tf([np.ones((4, 2))], (2, 2), (4, 1)),
        ["1 cores", "2 modes"],
    ),
    "tf, last rank": (
        lambda: from_tensornet_tf([np.ones((8, 2))], (2,), (4,)),
        ["right rank of 2"],
    ),
    "tf, modes": (lambda: from_tensornet_tf([np.ones((8, 2))], (2,), (4, 2)), ["in_modes (2,)"]),
    "tf, bias": (
        lambda: from_tensornet_tf([np.ones((4, 2))], (2,), (4,), bias=np.ones(3)),
        ["bias", "(3,)"],
    ),
    "2016": (
        lambda: from_tensornet_tf_2016(np.ones(9), (2,), (4,), (1, 1)),
        ["weights", "(9,)", "(8,)"],
    ),
    "2016, new cores": (
        lambda: from_tensornet_tf_2016(np.ones((4, 2)), (2,), (4,), (1, 1)),
        ["(4, 2)"],
    ),
    "theano": (
        lambda: from_tensornet_theano(np.ones(9), (2,), (4,), (1, 1)),
        ["cores_arr", "(8,)"],
    ),
    "matlab": (lambda: from_tensornet_matlab(np.ones(9), (2,), (4,), (1, 1)), ["core", "(8,)"]),
    "matlab, outer ranks": (
        lambda: from_tensornet_matlab(np.ones(16), (2,), (4,), (2, 1)),
        ["outer ranks 2 and 1"],
    ),
    "number of ranks": (
        lambda: from_tensornet_theano(np.ones(8), (2,), (4,), (1, 1, 1, 1)),
        ["4 entries", "expected 2"],
    ),
    "t3f": (lambda: from_t3f([np.ones((2, 2))]), ["core 0", "(2, 2)", "in_k, out_k"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_shapes_get_one_error_that_explains(case):
    call, words = BAD[case]
    with pytest.raises(tt.TTShapeError) as error:
        call()
    assert [word for word in words if word not in str(error.value)] == []
