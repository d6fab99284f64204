"""No operation on trains builds anything of the dense size, unless its name says dense.

One fresh process makes trains of 60 cores, caps its own address space a little above what it has,
and runs every operation; each is one test.
"""

import json
import subprocess
import sys
import textwrap

import pytest

OPERATIONS = {
    "add": "a + b",
    "subtract": "a - b",
    "negate": "-a",
    "scale": "a * 2.0",
    "divide": "a / 2.0",
    "multiply": "a * b",
    "add a scalar": "a + 1.0",
    "broadcast add": "a + tt.ones((5,))",
    "broadcast multiply": "a * tt.ones((5,))",
    "conj": "z.conj()",
    "real": "z.real",
    "imag": "z.imag",
    "astype": "a.astype('float32')",
    "copy": "a.copy()",
    "repr": "repr(a)",
    "size": "(a.size, a.compression, a.num_params, a.nbytes)",
    "norm": "a.norm()",
    "log_norm": "a.log_norm()",
    "vdot": "tt.vdot(a, b)",
    "log_vdot": "tt.log_vdot(a, b)",
    "distance": "tt.distance(a, b)",
    "allclose": "tt.allclose(a, b)",
    "round svd": "(a + b).round(eps=1e-8)",
    "round gram": "(a + b).round(eps=1e-8, method='gram')",
    "round randomized": "(a + b).round(eps=1e-8, method='randomized', rng=0)",
    "round max_rank": "(a + b).round(max_rank=2, full_output=True)",
    "round_sum": "tt.round_sum([(1.0, a), (2.0, b)], eps=1e-8)",
    "multiply eps": "tt.multiply(a, b, eps=1e-8)",
    "matmul exact": "tt.matmul(W, a, eps=1e-8)",
    "matmul zipup": "tt.matmul(W, a, max_rank=6, method='zipup', rng=0)",
    "matmul randomized": "tt.matmul(W, a, max_rank=6, method='randomized', rng=0)",
    "matmul als": "tt.matmul(W, a, max_rank=6, method='als', rng=0)",
    "matmul of matrices": "tt.matmul(W, W, max_rank=6)",
    "orthogonalize": "a.orthogonalize(30)",
    "sum": "a.sum()",
    "mean": "a.mean()",
    "sum over axes": "a.sum(axis=(0, -1))",
    "mean over half": "a.mean(axis=tuple(range(30)))",
    "zeros": "tt.zeros(shape)",
    "ones": "tt.ones(shape)",
    "eye": "tt.eye(shape)",
    "random": "tt.random(shape, 8, rng=0)",
    "random_matrix": "tt.random_matrix(shape, shape, 8, rng=0)",
    "rank_one": "tt.rank_one([np.ones(n) for n in shape])",
    "pickle": "pickle.loads(pickle.dumps(a)).norm()",
    "matrix times train": "W @ a",
    "matrix times matrix": "W @ W",
    "matrix sum": "(W + W).round(eps=1e-8)",
    "matrix product": "W * W",
    "transpose": "(W.T, W.H)",
    "bilinear_form": "tt.bilinear_form(a, W, b)",
    "matrix norm": "(W.norm(), tt.vdot(W, W), tt.distance(W, W))",
    "matrix repr": "(repr(W), W.shape, W.size, W.compression)",
    "plan": "str(W.plan())",
    "one entry": "a[(1,) * 60]",
    "slices": "a[(slice(None, None, -1), 2, None) + (slice(1, 4),) * 20]",
    "masks": "a[np.arange(4) % 2 == 0]",
    "arrays side by side": "a[..., [0, 1, 2], [1, 2, 3], :]",
    "arrays apart": "a[[0, 1], :, :, [2, 3]]",
    "iteration": "[part.norm() for part in a]",
    "gather": "a.gather(np.zeros((1000, 60), int))",
    "gather_backward": "tt.indexing.gather_backward(a.cores, np.ones((99, 60), int), np.ones(99))",
    "contract": "a.contract({k: np.ones(n) for k, n in enumerate(shape) if k % 2})",
    "permute": "a.permute([3, 0, 2, 1, *range(4, 58), 59, 58])",
    "permute far": "a.permute([59, *range(59)], max_rank=10)",
    "reverse": "a.permute(range(59, -1, -1))",
    "merge modes": "a.reshape((shape[0] * shape[1], *shape[2:]))",
    "split modes": "tt.random((4,) * 60, 4, rng=0).reshape((2,) * 120)",
    "concatenate": "tt.concatenate([a, b], axis=30)",
    "stack": "tt.stack([a, b], axis=30)",
    "kron": "tt.kron(W, W)",
    "diag": "tt.diag(a)",
    "from_cp": "tt.from_cp([np.ones((n, 5)) for n in shape])",
    "diagonal": "(W.diagonal(), W.trace())",
    "sums of a matrix": "(W.sum(), W.sum(axis=0), W.sum(axis=1))",
    "parts of a matrix": "(W[10**30, 7], W[10**30, :], W[:, 7])",
    "linear operator": "tall.to_linear_operator().matvec(np.ones(2**18))",
    "spectra": "a.spectra()",
    "html": "(a._repr_html_(), W._repr_html_())",
    # many cores, yet vectors that fit: 2**18 rows and columns, a dense matrix of 512 GiB
    "matvec": "tall @ np.ones(2**18)",
    "rmatvec": "tall.rmatvec(np.ones(2**18))",
    "apply": "tall.apply(np.ones((3, 2**18)))",
    "matvec_backward": "tt.linear.matvec_backward(tall.cores, *np.ones((2, 1, 2**18)))",
    "rows": "(tall.gather_rows([0, -1, 0]), tall.gather_columns([2**17, 2**17]))",
    "gradients of rows": "tt.rows.gather_rows_backward(tall.cores, [5], np.ones((1, 2**18)))",
    "layer forward": "tt.layers.FC(tall.cores, np.ones(2**18)).forward(np.ones((3, 2**18)))",
    "layer backward": "tt.layers.FC(tall.cores).backward(*np.ones((2, 1, 2**18)))",
    "layer clip": "tt.layers.FC(tall.cores).clip().round(max_rank=2)",
    "layer init": "tt.layers.FC.random((2,) * 18, (2,) * 18, 4, rng=0, init='orthogonal')",
    "suggest": "tt.layers.suggest((2**18, 2**18), params=1000)",
    "from_dense": "tt.from_dense(np.ones((2,) * 20), eps=1e-8)",
    "matrix_from_dense": "tt.matrix_from_dense(np.ones((2**9, 2**9)), (2,) * 9, (2,) * 9)",
}

SCRIPT = """
import json, os, pickle, resource, sys
import numpy as np
import ttcore as tt

rng = np.random.default_rng(0)
shape = tuple(4 + k % 7 for k in range(59)) + (5,)  # modes 4 ... 10
a, b = tt.random(shape, 4, rng=1), tt.random(shape, 3, rng=2)
z = a * 1j
W = tt.random_matrix(shape, shape, 3, rng=3)
tall = tt.random_matrix((2,) * 18, (2,) * 18, 4, rng=4)
np.linalg.svd(np.ones((300, 300)) @ np.ones((300, 300)))  # libraries allocate their buffers
(a + b).round(), tall @ np.ones(2**18)  # and modules are loaded

pages = int(open("/proc/self/statm").read().split()[0])
cap = pages * os.sysconf("SC_PAGE_SIZE") + 256 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
answers = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        eval(code)
        answers[name] = "done"
    except BaseException as error:
        answers[name] = f"{type(error).__name__}: {error}"
try:
    np.ones(2**28)
    answers["control"] = "done"
except MemoryError:
    answers["control"] = "refused"
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    pytest.importorskip("resource", reason="the memory cap needs the resource module (POSIX)")
    if sys.platform != "linux":
        pytest.skip("the memory in use is read from /proc")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(OPERATIONS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_cap_refuses_a_large_array(answers):
    assert answers["control"] == "refused"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_dense_is_built_by(operation, answers):
    assert answers[operation] == "done"
