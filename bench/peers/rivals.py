"""The peers: what is installed, and how each is called. A few lines each.

A layer is made of NumPy cores (r, m, n, r') and gives ``(forward, parameters)``: a function of the
rows (batch, N), and the tensors that it is differentiated by.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from math import prod, sqrt
from typing import Any

import numpy as np

import ttcore as tt

PACKAGES = {  # module: distribution
    "torch": "torch",
    "torchtt": "torchTT",
    "tensorly": "tensorly",
    "tltorch": "tensorly-torch",
    "tntorch": "tntorch",
    "teneva": "teneva",
}
Layer = tuple[Callable[[Any], Any], list[Any]]
Product = Callable[[Any, Any], Any]


@cache
def load(name: str) -> Any:
    """The module, or None and a printed reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchTT announces that it is pure Python
            return import_module(name)
    except Exception as why:  # whatever a broken installation raises
        print(f"{PACKAGES[name]} is left out: {type(why).__name__}: {why}", file=sys.stderr)
        return None


def versions() -> dict[str, str]:
    """Of the peers that load."""
    return {where: version(where) for name, where in PACKAGES.items() if load(name) is not None}


# layers


def layers() -> dict[str, Callable[[tt.TTMatrix, int], Layer]]:
    """Makers of all layers whose library is installed."""
    makers = {
        "torch chain": ("torch", partial(plain_chain, matmul)),
        "torch chain (bmm)": ("torch", partial(plain_chain, bmm)),
        "merged chain": ("torch", partial(merged_chain, matmul)),
        "merged chain (bmm)": ("torch", partial(merged_chain, bmm)),
        "tensorly-torch": ("tltorch", tltorch_layer),
        "torchTT": ("torchtt", torchtt_layer),
        "tntorch": ("tntorch", tntorch_layer),
    }
    found = {}
    for name, (module, maker) in makers.items():
        if load("torch") is not None and load(module) is not None:
            found[name] = maker
    return found


def parameters(cores: Sequence[np.ndarray]) -> list[Any]:
    torch = load("torch")
    return [torch.nn.Parameter(torch.from_numpy(np.array(core))) for core in cores]


def matmul(a: Any, state: Any) -> Any:
    """``a`` (rows, k) times each of ``state`` (b, k, inner), in torch's usual words."""
    return a @ state


def bmm(a: Any, state: Any) -> Any:
    """The same by the call that torch runs faster without gradients, and not always with them."""
    return load("torch").bmm(a.expand(len(state), *a.shape), state)


def plain_chain(product: Product, matrix: tt.TTMatrix, batch: int) -> Layer:
    """One core after the other, last mode first."""
    ranks, rows, cols = matrix.ranks, matrix.row_modes, matrix.col_modes
    stages = []
    for k in reversed(range(len(rows))):
        sizes = prod(cols[:k]), ranks[k] * rows[k], cols[k] * ranks[k + 1], prod(rows[k + 1 :])
        stages.append((k, k + 1, 0, *sizes))
    return _chain(product, matrix, stages)


def merged_chain(product: Product, matrix: tt.TTMatrix, batch: int) -> Layer:
    """The plan of ttcore run by torch; the cores are merged inside the clock, as ttcore does."""
    return _chain(product, matrix, _planned(matrix, batch))


def premerged_chain(matrix: tt.TTMatrix, batch: int) -> Layer:
    """The same, the cores merged before the clock starts: no layer in training can do that."""
    return _chain(bmm, matrix, _planned(matrix, batch), merged=True)


def _planned(matrix: tt.TTMatrix, batch: int) -> Sequence[Any]:
    return matrix.plan(batch=batch).stages


_AXES = {0: (0, 1, 2, 3), 1: (1, 3, 0, 2), 2: (1, 0, 2, 3)}  # of (r, m, n, r'), by form


def _chain(
    product: Product, matrix: tt.TTMatrix, stages: Sequence[Any], *, merged: bool = False
) -> Layer:
    torch = load("torch")
    cores = parameters(matrix.cores)

    def supercore(first: int, last: int, form: int, rows: int, k: int) -> Any:
        g = cores[first]
        for h in cores[first + 1 : last]:
            (r, m, n, s), (_, p, q, t) = g.shape, h.shape
            pairs = g.reshape(r * m * n, s) @ h.reshape(s, p * q * t)
            pairs = pairs.reshape(r, m, n, p, q, t).permute(0, 1, 3, 2, 4, 5)
            g = pairs.reshape(r, m * p, n * q, t)
        return g.permute(_AXES[form]).reshape(rows, k)

    ready = None
    if merged:
        with torch.inference_mode():
            ready = [supercore(s[0], s[1], s[2], s[4], s[5]) for s in stages]

    def forward(x: Any) -> Any:
        state = x
        for i, (first, last, form, _, rows, k, inner) in enumerate(stages):
            a = ready[i] if ready else supercore(first, last, form, rows, k)
            if inner == 1:  # rows times a matrix: one product
                state = state.reshape(-1, k) @ a.T
                continue
            state = product(a, state.reshape(-1, k, inner))
        return state.reshape(x.shape[0], -1)

    return forward, cores


def tltorch_layer(matrix: tt.TTMatrix, batch: int) -> Layer:
    torch, tltorch = load("torch"), load("tltorch")
    load("tensorly").set_backend("pytorch")
    layer = tltorch.FactorizedLinear(
        matrix.col_modes,
        matrix.row_modes,
        bias=False,
        factorization="blocktt",
        rank=tuple(matrix.ranks),
        implementation="factorized",
        dtype=getattr(torch, matrix.dtype.name),
    )
    factors = list(layer.weight.factors)
    with torch.no_grad():
        for factor, core in zip(factors, matrix.cores, strict=True):
            factor.copy_(torch.from_numpy(np.array(core)))
    return layer, factors


def torchtt_layer(matrix: tt.TTMatrix, batch: int) -> Layer:
    torch = load("torch")
    made = load("torchtt").nn.LinearLayerTT(
        list(matrix.col_modes),
        list(matrix.row_modes),
        list(matrix.ranks),
        dtype=getattr(torch, matrix.dtype.name),
    )
    cores = parameters(matrix.cores)
    made.cores = torch.nn.ParameterList(cores)
    shape = matrix.col_modes

    def forward(x: Any) -> Any:
        return made(x.reshape(-1, *shape)).reshape(x.shape[0], -1)

    return forward, list(made.cores)


def tntorch_layer(matrix: tt.TTMatrix, batch: int) -> Layer:
    torch, tntorch = load("torch"), load("tntorch")
    made = tntorch.TTMatrix.__new__(tntorch.TTMatrix)  # its constructor wants the dense matrix
    cores = [torch.nn.Parameter(core.permute(0, 2, 1, 3)) for core in parameters(matrix.cores)]
    made.cores = cores
    made.d = len(cores)
    made.input_dims = torch.tensor(matrix.col_modes)
    made.output_dims = torch.tensor(matrix.row_modes)
    return lambda x: tntorch.tt_multiply(made, x), cores


# trains


@contextmanager
def in_double() -> Iterator[None]:
    """Run torch in float64 and without gradients."""
    torch = load("torch")
    if torch is None:
        yield
        return
    torch.set_default_dtype(torch.float64)  # tntorch makes its own ones by default
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def as_torch(cores: Sequence[np.ndarray]) -> list[Any]:
    torch = load("torch")
    return [torch.from_numpy(np.array(core)) for core in cores]


def decompositions(
    a: np.ndarray, eps: float, rank: int | Sequence[int]
) -> dict[str, Callable[[], Any]]:
    """TT-SVD of an array of norm 1: functions that return NumPy cores. tensorly takes ranks."""
    found: dict[str, Callable[[], Any]] = {}
    if torchtt := load("torchtt"):
        tensor = load("torch").from_numpy(a)
        found["torchTT"] = lambda: [g.numpy() for g in torchtt.TT(tensor, eps=eps).cores]
    if tntorch := load("tntorch"):
        ours = load("torch").from_numpy(a)
        found["tntorch"] = lambda: [
            g.numpy() for g in tntorch.round_tt(tntorch.Tensor(ours), eps=eps).cores
        ]
    if teneva := load("teneva"):
        share = eps / sqrt(a.ndim - 1)  # of each bond; it is absolute
        found["teneva"] = lambda: teneva.svd(a, share)
    if tensorly := load("tensorly"):
        from tensorly.decomposition import tensor_train

        def by_tensorly() -> Any:
            tensorly.set_backend("numpy")
            return list(tensor_train(a, rank))

        found["tensorly"] = by_tensorly
    return found


def roundings(cores: Sequence[np.ndarray], eps: float) -> dict[str, Callable[[], Any]]:
    """Rounding: functions that return NumPy cores. tensorly has none."""
    found: dict[str, Callable[[], Any]] = {}
    if torchtt := load("torchtt"):
        train = torchtt.TT(as_torch(cores))
        found["torchTT"] = lambda: [g.numpy() for g in train.round(eps).cores]
    if tntorch := load("tntorch"):
        theirs = tntorch.Tensor(as_torch(cores))
        found["tntorch"] = lambda: [g.numpy() for g in tntorch.round_tt(theirs, eps=eps).cores]
    if teneva := load("teneva"):
        plain = list(cores)
        found["teneva"] = lambda: teneva.truncate(plain, eps, is_eigh=False)
    return found


def squares(cores: Sequence[np.ndarray], eps: float) -> dict[str, Callable[[], Any]]:
    """The elementwise square, rounded: functions that return NumPy cores.

    Without torchTT's fast_hadammard: 91 s at d = 6, n = 20, rank 15, its `(a * a).round` 0.2 s.
    teneva's truncation with is_eigh=False is right for trains of a norm about 1 only.
    """
    found: dict[str, Callable[[], Any]] = {}
    if torchtt := load("torchtt"):
        train = torchtt.TT(as_torch(cores))
        found["torchTT"] = lambda: [g.numpy() for g in (train * train).round(eps).cores]
    if tntorch := load("tntorch"):
        theirs = tntorch.Tensor(as_torch(cores))
        found["tntorch"] = lambda: [
            g.numpy() for g in tntorch.round_tt(theirs * theirs, eps=eps).cores
        ]
    if teneva := load("teneva"):
        plain = list(cores)
        found["teneva"] = lambda: teneva.truncate(teneva.mul(plain, plain), eps)
    return found


def matrix_products(
    matrix: Sequence[np.ndarray], x: Sequence[np.ndarray], eps: float
) -> dict[str, Callable[[], Any]]:
    """A TT-matrix times a train, rounded: functions that return NumPy cores. Only torchTT's."""
    torchtt = load("torchtt")
    if torchtt is None:
        return {}
    a, b = torchtt.TT(as_torch(matrix)), torchtt.TT(as_torch(x))
    calls = {
        "torchTT": lambda: (a @ b).round(eps),
        "torchTT fast_matvec": lambda: a.fast_matvec(b, eps=eps),
        "torchTT fast_mv": lambda: torchtt.fast_mv(a, b, eps=eps),
        "torchTT amen_mv": lambda: torchtt.amen_mv(a, b, eps=eps),
    }
    return {
        name: lambda call=call: [g.numpy() for g in call().cores] for name, call in calls.items()
    }


def inner_products(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray]
) -> dict[str, Callable[[], float]]:
    """Inner products. teneva's takes minutes at rank 100; tensorly has none."""

    def by_numpy() -> float:
        interface = np.ones((1, 1))
        for g, h in zip(x, y, strict=True):
            (r, n, t), (s, _, u) = g.shape, h.shape
            half = interface @ h.reshape(s, n * u)  # (r, n u)
            interface = g.reshape(r * n, t).T @ half.reshape(r * n, u)
        return float(interface.item())

    found = {"two GEMMs a core by NumPy": by_numpy}
    if torchtt := load("torchtt"):
        a, b = torchtt.TT(as_torch(x)), torchtt.TT(as_torch(y))
        found["torchTT"] = lambda: float(torchtt.dot(a, b))
    if tntorch := load("tntorch"):
        c, e = tntorch.Tensor(as_torch(x)), tntorch.Tensor(as_torch(y))
        found["tntorch"] = lambda: float(tntorch.dot(c, e))
    return found


def gathers(cores: Sequence[np.ndarray], index: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Entries at the rows of ``index``, as NumPy arrays."""
    found: dict[str, Callable[[], Any]] = {}
    if torch := load("torch"):
        where = torch.from_numpy(index)
        slices = [g.permute(1, 0, 2).contiguous() for g in as_torch(cores)]

        def by_bmm() -> Any:
            state = torch.ones((len(index), 1, 1), dtype=slices[0].dtype)
            for k, core in enumerate(slices):
                state = torch.bmm(state, core[where[:, k]])
            return state.reshape(-1).numpy()

        found["torch.bmm chain"] = by_bmm
    if torchtt := load("torchtt"):
        train = torchtt.TT(as_torch(cores))
        found["torchTT"] = lambda: train.apply_mask(torch.from_numpy(index)).numpy()
    if tntorch := load("tntorch"):
        theirs = tntorch.Tensor(as_torch(cores))
        entries = torch.from_numpy(index)

        def by_tntorch() -> Any:
            return theirs[entries].numpy()

        found["tntorch"] = by_tntorch
    if teneva := load("teneva"):
        plain = list(cores)
        found["teneva get_many"] = lambda: teneva.get_many(plain, index)
        get = _getter(plain)
        if get is not None:
            found["teneva getter"] = lambda: np.array([get(row) for row in index])
    return found


def _getter(cores: list[np.ndarray]) -> Any:
    try:
        return load("teneva").getter(cores)
    except Exception as why:
        print(f"teneva's getter is left out: {type(why).__name__}: {why}", file=sys.stderr)
        return None
