"""The adapter on a CUDA device: values, gradients, and what torch does with modules there.

Trains of CUDA tensors without the layer are tested in ``test_array_libraries``.
"""

import copy
import gc
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from test_linear import assert_gradients_equal_definition, normal  # noqa: E402
from test_surgery import network  # noqa: E402
from test_torch import FORWARD_MODE, SHAPES  # noqa: E402
from torch import nn  # noqa: E402

import ttcore as tt  # noqa: E402
from ttcore.adapters.torch import (  # noqa: E402
    TTDelta,
    TTLinear,
    rebuild_layers,
    replace_layers,
    tt_linear,
)
from ttcore.testing import assert_within, dense_matrix, gamma, magnitude  # noqa: E402

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ALL = {**SHAPES, "larger": ((8, 8, 8), (4, 8, 4), 6)}
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
TF32 = 2.0**-10  # relative error of a number that is cut to ten bits


def layer_of(name="layer", dtype=torch.float64, device=DEVICE, **options):
    """Equal parameters on any device: they are drawn on the CPU."""
    torch.manual_seed(0)
    layer = TTLinear(*ALL[name], dtype=dtype, device=device, **options)
    if layer.bias is not None:
        with torch.no_grad():
            layer.bias.copy_(torch.randn(layer.out_features))
    return layer


def random(*shape, dtype=torch.float64, device=DEVICE):
    return torch.randn(*shape, dtype=dtype).to(device)


def on_cpu(layer):
    return copy.deepcopy(layer).cpu()


def assert_there(*tensors):
    assert all(a.device.type == DEVICE for a in tensors)


def step(layer, x, loss=lambda y: y.float().square().mean()):
    """The output, and the gradients of x and all parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y.detach(), *torch.autograd.grad(loss(y), [x, *layer.parameters()])


def assert_same(found, exact, **tolerance):
    for a, b in zip(found, exact, strict=True):
        assert_there(a)
        torch.testing.assert_close(a.cpu(), b.cpu(), **tolerance)


@pytest.fixture
def tf32():
    """Products of float32 on the matrix units, as many programs ask for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(params=ALL)
def name(request):
    return request.param


# values and gradients


def problem(name, dtype, batch):
    """Cores, bias, x and gy as NumPy arrays."""
    ins, outs, rank = ALL[name]
    cores = [g.astype(dtype) for g in tt.layers.init_cores(ins, outs, rank, rng=0, init=1.0)]
    rng = np.random.default_rng(1)
    if np.issubdtype(dtype, np.complexfloating):
        cores = [normal(rng, g.shape, dtype) for g in cores]
    sizes = [int(np.prod(modes)) for modes in (ins, outs)]
    return cores, normal(rng, sizes[1:], dtype), *(normal(rng, (batch, n), dtype) for n in sizes)


def computed(arrays):
    """Output and gradients, on the device, then as NumPy arrays."""
    cores, bias, x, gy = arrays
    x, bias, gy, *cores = (torch.tensor(a, device=DEVICE) for a in (x, bias, gy, *cores))
    operands = [a.requires_grad_() for a in (x, bias, *cores)]
    y = tt_linear(x, cores, bias)
    found = [y, *torch.autograd.grad(y, operands, gy)]
    assert_there(*found)
    assert [a.shape for a in found[1:]] == [a.shape for a in operands]
    return [a.detach().cpu().numpy() for a in found]


@pytest.mark.parametrize("batch", [0, 1, 37])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_values_and_gradients_equal_the_definition(name, dtype, batch):
    arrays = problem(name, np.dtype(dtype), batch)
    cores, bias, x, gy = arrays
    y, gx, gbias, *gcores = computed(arrays)
    exact = x @ dense_matrix(cores).T + bias
    size = np.abs(x) @ magnitude(cores).T + np.abs(bias)
    unit = np.finfo(dtype).eps
    assert_within(y, exact, (gamma(dtype, cores) + 2 * unit) * size)
    assert_within(gbias, gy.sum(0, dtype=exact.dtype), 2 * batch * unit * np.abs(gy).sum(0))
    assert_gradients_equal_definition(cores, x, gy, gx, gcores)


def test_tf32_adds_the_error_of_ten_bits_for_each_product(name, tf32):
    arrays = problem(name, np.dtype("float32"), 37)
    cores, bias, x, _ = arrays
    size = np.abs(x) @ magnitude(cores).T + np.abs(bias)
    # two operands in each of at most d products with vectors, and d - 1 of cores
    coarse = gamma("float32", cores) + 4 * len(cores) * TF32
    assert_within(computed(arrays)[0], x @ dense_matrix(cores).T + bias, coarse * size)


@HALVES
def test_half_precision_is_rounded_once_from_what_float32_gives(name, dtype):
    half = layer_of(name, dtype)
    exact = copy.deepcopy(half).float()
    x = random(37, half.in_features, dtype=dtype)
    found, expected = (
        step(half, x),
        step(exact, x.float(), lambda y: y.to(dtype).float().square().mean()),
    )
    assert {a.dtype for a in found} == {dtype}
    unit = torch.finfo(dtype).eps
    least = unit * torch.finfo(dtype).smallest_normal  # entries that almost vanish are whole ones
    # y is rounded, so is what flows back from it, then each gradient
    assert_same(found[:1], [a.to(dtype) for a in expected[:1]], rtol=unit, atol=least)
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert_there(a)
        assert torch.dist(a.float(), b) <= 4 * unit * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0, 3)], ids=str)
def test_any_leading_axes_and_padded_sizes(lead, bias):
    for sizes in ({}, {"in_features": 27, "out_features": 13}):
        layer = layer_of(bias=bias, **sizes)
        x = random(*lead, layer.in_features)
        found, exact = step(layer, x, torch.sum), step(on_cpu(layer), x.cpu(), torch.sum)
        assert found[0].shape == (*lead, layer.out_features)
        assert found[0].is_contiguous()
        assert_same(found, exact, rtol=1e-12, atol=1e-12)


def test_tensors_need_not_be_contiguous(name):
    layer = layer_of(name)
    wide = random(layer.in_features, 5, 2)
    cores = [g.detach().mT.contiguous().mT.requires_grad_() for g in layer.cores]
    for x in (wide[..., 1].T, wide[:, :1, 0].T.expand(4, -1)):
        plain = x.contiguous()
        y, same = tt_linear(x, cores, layer.bias), layer(plain)
        torch.testing.assert_close(y, same, rtol=1e-12, atol=1e-12)
        gy = random(layer.out_features, len(x)).T
        found = torch.autograd.grad(y, cores, gy)
        assert_same(found, torch.autograd.grad(same, list(layer.cores), gy), rtol=1e-12, atol=1e-12)


@FORWARD_MODE
def test_gradcheck_and_gradgradcheck_pass(name):
    if name == "larger":
        pytest.skip("too many numbers to vary")
    layer = layer_of(name)
    x = random(2, layer.in_features).requires_grad_()

    def run(x, bias, *cores):
        return tt_linear(x, cores, bias)

    operands = (x, layer.bias, *layer.cores)
    assert torch.autograd.gradcheck(run, operands, check_forward_ad=True, nondet_tol=1e-12)
    assert torch.autograd.gradgradcheck(run, operands, nondet_tol=1e-12)


# devices


def test_a_layer_moves_to_the_device_and_back(name):
    layer = layer_of(name, device="cpu")
    x = random(5, layer.in_features, device="cpu")
    exact = step(layer, x)
    for move in (lambda a: a.to(DEVICE), lambda a: getattr(a, DEVICE)()):
        there = move(copy.deepcopy(layer))
        assert_there(*there.parameters())
        assert_same(step(there, x.to(DEVICE)), exact, rtol=1e-12, atol=1e-12)
        back = there.cpu()
        assert all(torch.equal(a, b) for a, b in zip(step(back, x), exact, strict=True))
    with torch.device(DEVICE):
        assert_there(*TTLinear(*ALL[name]).parameters())


def test_copies_pickles_and_files_stay_where_they_were(name):
    layer = layer_of(name)
    x = random(3, layer.in_features)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twins = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for twin in twins:
        assert_there(*twin.parameters())
        assert torch.equal(twin(x), layer(x))


def test_states_are_loaded_from_another_device(name):
    there, here = layer_of(name), TTLinear(*ALL[name], dtype=torch.float64)
    file = io.BytesIO()
    torch.save(there.state_dict(), file)
    file.seek(0)
    here.load_state_dict(torch.load(file, map_location="cpu"))
    x = random(3, here.in_features, device="cpu")
    torch.testing.assert_close(here(x), there(x.to(DEVICE)).cpu(), rtol=1e-12, atol=1e-12)
    nn.init.normal_(here.cores[0])
    there.load_state_dict(here.state_dict())
    assert_there(*there.parameters())
    assert torch.equal(there.cores[0].cpu(), here.cores[0])


def test_seeds_give_the_same_layer_on_every_device():
    for p, q in zip(layer_of().parameters(), layer_of(device="cpu").parameters(), strict=True):
        assert torch.equal(p.cpu(), q)


def test_vectors_on_the_cpu_are_refused_and_the_other_way_round():
    layer = layer_of()
    with pytest.raises(tt.TTTypeError, match=rf"x is on cpu, core 0 on {DEVICE}.*; move"):
        layer(random(3, 28, device="cpu"))
    with pytest.raises(tt.TTTypeError, match=rf"x is on {DEVICE}.*, core 0 on cpu; move"):
        on_cpu(layer)(random(3, 28))
    layer.bias = nn.Parameter(layer.bias.detach().cpu())
    with pytest.raises(tt.TTTypeError, match="the bias on cpu"):
        layer(random(3, 28))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_neither_waits_for_the_device_nor_copies_to_the_host(name, dtype):
    layer = layer_of(name, dtype)
    x = random(37, layer.in_features, dtype=dtype)
    step(layer, x)  # libraries are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step(layer, x)
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            layer(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_there(*found)


def peak_of_a_step(layer, x):
    """Bytes that the second step of training has in use at its peak, parameters included."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    peak = 0
    for _ in range(2):
        optimizer.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        layer(x).square().mean().backward()
        optimizer.step()
        peak = torch.cuda.max_memory_allocated()
    return peak


def test_a_step_of_training_takes_less_memory_than_the_dense_layer():
    x = random(100, 4096, dtype=torch.float32)
    peaks = []
    for make in (
        lambda: nn.Linear(4096, 4096, device=DEVICE),
        lambda: TTLinear((8,) * 4, (8,) * 4, 4, device=DEVICE),
    ):
        peak_of_a_step(make(), x)  # libraries take their workspace, and keep it
        gc.collect()
        before = torch.cuda.memory_allocated()
        peaks.append(peak_of_a_step(make(), x) - before)
        gc.collect()
    dense, ours = peaks
    assert ours <= dense


# precision and training


@HALVES
def test_autocast_rounds_the_output_once(dtype):
    layer = layer_of("larger", torch.float32)
    x = random(37, layer.in_features, dtype=torch.float32)
    y = layer(x)
    with torch.autocast(DEVICE, dtype):
        z = layer(x)
        assert layer_of()(random(2, 28)).dtype == torch.float64  # as torch.nn.Linear
        without = tt_linear(x, list(layer.cores))
        mapped = torch.func.vmap(layer)(x)
    assert {z.dtype, without.dtype, mapped.dtype} == {dtype}
    for found, exact in ((z, y), (mapped, y), (without, tt_linear(x, list(layer.cores)))):
        torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)
    z.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, dtype):
        torch.testing.assert_close(compiled(x), z)


def test_scaled_gradients_are_unscaled_and_a_step_with_infinity_is_left_out():
    layer, plain = layer_of(dtype=torch.float32), layer_of(dtype=torch.float32)
    x = random(6, 28, dtype=torch.float32)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=2.0**10)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (layer, plain)]
    with torch.autocast(DEVICE, torch.float16):
        loss, same = (net(x).float().square().mean() for net in (layer, plain))
    same.backward()
    scaler.scale(loss).backward()
    scaler.step(optimizers[0])
    scaler.update()
    optimizers[1].step()
    # a power of two changes no digit, unless what is below the smallest number of float16
    for a, b in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2.0**-10, atol=1e-6)
    before = copy.deepcopy(layer.state_dict())
    optimizers[0].zero_grad()
    x[2, 3] = torch.inf
    with torch.autocast(DEVICE, torch.float16):
        loss = layer(x).float().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizers[0])
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_training_takes_the_steps_that_it_takes_on_the_cpu():
    nets = [
        nn.Sequential(layer_of(device="cpu"), nn.ReLU(), nn.Linear(15, 2).double())
        for _ in range(2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[0].to(DEVICE)
    for net in nets:
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            x = torch.randn(8, 28, dtype=torch.float64).to(next(net.parameters()).device)
            net(x).square().mean().backward()
            optimizer.step()
    assert_same(nets[0].parameters(), nets[1].parameters(), rtol=1e-9, atol=1e-9)


# compilers and transformations


@pytest.mark.filterwarnings("ignore")  # compilers warn about themselves
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(backend):
    layer = layer_of("larger")
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for batch in (3, 5, 5):
        x = random(batch, layer.in_features)
        assert_same(step(compiled, x), step(layer, x), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_compiles_with_graphs_of_the_device():
    layer = layer_of("larger")
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(4):  # graphs are recorded with the second call or the third
        torch.compiler.cudagraph_mark_step_begin()
        x = random(5, layer.in_features)
        assert_same(step(compiled, x), step(layer, x), rtol=1e-10, atol=1e-12)


def test_functions_are_transformed(name):
    layer = layer_of(name)
    params = {key: p.detach() for key, p in layer.named_parameters()}
    x = random(4, layer.in_features)

    def loss(params, x):
        return torch.func.functional_call(layer, params, (x,)).square().sum()

    exact = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    assert_same(torch.func.grad(loss)(params, x).values(), exact, rtol=1e-10, atol=1e-10)
    assert_same([torch.func.vmap(layer)(x)], [layer(x)], rtol=1e-12, atol=1e-12)
    several = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    assert_same([g.sum(0) for g in several.values()], exact, rtol=1e-10, atol=1e-10)
    assert_same(
        [torch.func.jacrev(layer)(x[0])], [layer.to_dense().detach()], rtol=1e-10, atol=1e-10
    )


def test_a_graph_of_the_device_is_captured_and_replayed():
    """Of the output alone, and of a whole step of gradients."""
    layer = layer_of("larger", torch.float32)
    still = random(37, layer.in_features, dtype=torch.float32).requires_grad_()
    loss = torch.Tensor.square

    def gradients():
        y = layer(still)
        return y.detach(), *torch.autograd.grad(loss(y).mean(), [still, *layer.parameters()])

    def output():
        with torch.no_grad():
            return (layer(still),)

    for call in (output, gradients):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = call()
        for _ in range(2):
            with torch.no_grad():
                still.copy_(random(37, layer.in_features, dtype=torch.float32))
            graph.replay()
            assert_same(kept, call(), rtol=1e-4, atol=1e-5)


# trained models


def test_a_trained_layer_is_taken_over():
    torch.manual_seed(0)
    linear = nn.Linear(28, 15, device=DEVICE, dtype=torch.float64)
    x = random(6, 28)
    for options in ({}, {"in_modes": (5, 6), "out_modes": (4, 4), "pad": True}):
        layer = TTLinear.from_dense(linear, **{"in_modes": (4, 7), "out_modes": (5, 3), **options})
        assert_there(*layer.parameters())
        assert_same([layer(x)], [linear(x)], rtol=1e-10, atol=1e-10)
    for dtype in (torch.float32, torch.float16):
        cut = TTLinear.from_dense(linear.to(dtype), (4, 7), (5, 3), max_rank=2)
        assert_there(*cut.parameters())
        assert (cut.ranks, cut.cores[0].dtype) == ((1, 2, 1), dtype)


@pytest.mark.parametrize("goal", [{"eps": 1e-3}, {"ratio": 5}, {"rank": 3}], ids=str)
def test_layers_of_a_model_are_replaced_where_they_are(goal):
    net, here = network().to(DEVICE), network()
    old = copy.deepcopy(net)
    report, same = replace_layers(net, **goal), replace_layers(here, **goal)
    assert [row.ranks for row in report.layers] == [row.ranks for row in same.layers]
    for row, other in zip(report.layers, same.layers, strict=True):
        assert row.error == pytest.approx(other.error, rel=1e-6, abs=1e-12)
    assert_there(*net.parameters())
    x = random(7, 96)
    assert_same([net(x)], [here.to(DEVICE)(x)], rtol=1e-8, atol=1e-8)
    assert rebuild_layers(old, net.state_dict()) == ("0", "2")
    old.load_state_dict(net.state_dict())
    assert_there(*old.parameters())
    assert torch.equal(old(x), net(x))


def test_a_delta_starts_at_zero_learns_and_merges_there():
    torch.manual_seed(0)
    base = nn.Linear(28, 15, device=DEVICE, dtype=torch.float64)
    layer = TTDelta(base, 3)
    assert_there(*layer.parameters())
    x = random(40, 28)
    assert torch.equal(layer(x), base(x))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(x) - x[:, :15]).square().mean().backward()
        optimizer.step()
    merged = layer.merge()
    assert_there(*merged.parameters())
    assert torch.dist(merged(x), base(x)) > 0.01
    assert_same([merged(x)], [layer(x)], rtol=1e-10, atol=1e-10)
