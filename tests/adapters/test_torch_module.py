"""`TTLinear` as a module: its state, its copies, its memory, its errors."""

import copy
import io
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from test_torch import SHAPES  # noqa: E402
from torch import nn  # noqa: E402

import ttcore as tt  # noqa: E402
from ttcore.adapters.torch import TTLinear, tt_linear  # noqa: E402


def layer_of(name, dtype=torch.float64):
    torch.manual_seed(0)
    layer = TTLinear(*SHAPES[name], dtype=dtype)
    nn.init.normal_(layer.bias)
    return layer


@pytest.fixture(params=SHAPES)
def layer(request):
    return layer_of(request.param)


def test_state_dict_has_the_documented_keys(layer):
    keys = [f"cores.{k}" for k in range(len(layer.in_modes))]
    assert sorted(layer.state_dict()) == ["bias", *keys]
    shapes = [tuple(layer.state_dict()[key].shape) for key in keys]
    assert shapes == [
        g.shape for g in tt.layers.init_cores(layer.in_modes, layer.out_modes, layer.ranks)
    ]
    other = TTLinear(layer.in_modes, layer.out_modes, layer.ranks, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, layer.in_features, dtype=torch.float64)
    assert torch.equal(other(x), layer(x))


def test_copies_pickles_and_files_compute_the_same(layer):
    x = torch.randn(2, layer.in_features, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twins = [
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for twin in twins:
        assert torch.equal(twin(x), layer(x))
        assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(
            p.data_ptr() for p in layer.parameters()
        )


def test_initial_cores_follow_the_seed_of_torch_and_the_variance_of_the_dense_weight():
    torch.manual_seed(1)
    a = TTLinear((8, 8), (8, 8), 16)
    torch.manual_seed(1)
    b = TTLinear((8, 8), (8, 8), 16)
    c = TTLinear((8, 8), (8, 8), 16, init="he")
    assert torch.equal(a.cores[0], b.cores[0])
    assert not torch.equal(a.cores[0], c.cores[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ratio = float(c.weight.var() / a.weight.var())
    assert 1.4 < ratio < 2.8  # 2 / 64 over 2 / 128, from 4096 entries that depend on each other
    assert not a.bias.any()
    before = a.cores[0].clone()
    a.reset_parameters()
    assert not torch.equal(a.cores[0], before)


def test_device_and_dtype_are_taken_as_torch_does():
    layer = TTLinear((2, 3), (3, 2), 2, device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert layer(torch.empty(5, 6, device="meta", dtype=torch.bfloat16)).shape == (5, 6)
    assert TTLinear((2, 3), (3, 2), 2).cores[0].dtype == torch.get_default_dtype()
    assert TTLinear((2, 3), (3, 2), 2, False).bias is None


def test_a_trained_layer_is_taken_over():
    torch.manual_seed(0)
    linear = nn.Linear(28, 15)
    layer = TTLinear.from_dense(linear, (4, 7), (5, 3))
    x = torch.randn(6, 28)
    torch.testing.assert_close(layer(x), linear(x))
    assert TTLinear.from_dense(linear, (4, 7), (5, 3), max_rank=2).ranks == (1, 2, 1)
    half = nn.Linear(28, 15, bias=False).bfloat16()
    assert TTLinear.from_dense(half, eps=0.1).cores[0].dtype == torch.bfloat16
    assert TTLinear.from_dense(half, eps=0.1).bias is None


def test_what_was_suggested_is_taken_over_padding_included():
    torch.manual_seed(0)
    linear = nn.Linear(37, 23)
    best = tt.layers.suggest(linear.weight, eps=1e-6).best
    assert np.prod(best.in_modes) > 37
    layer = TTLinear.from_dense(linear, best.in_modes, best.out_modes, pad=True)
    assert (layer.in_features, layer.out_features) == (37, 23)
    assert layer.bias.shape == (23,)
    assert "in_features=37" in repr(layer)
    x = torch.randn(2, 6, 37, requires_grad=True)
    y = layer(x)
    assert y.is_contiguous()
    torch.testing.assert_close(y, linear(x))
    gy = torch.randn_like(y)
    exact = torch.autograd.grad(linear(x), [x, linear.bias], gy)
    for a, b in zip(torch.autograd.grad(y, [x, layer.bias], gy), exact, strict=True):
        torch.testing.assert_close(a, b)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), y)
    with pytest.warns(UserWarning, match="23 x 37"):
        torch.testing.assert_close(layer.weight, linear.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_sizes_below_those_of_the_modes_are_checked():
    layer = TTLinear((4, 10), (4, 6), 2, in_features=37, out_features=23)
    assert layer(torch.ones(37)).shape == (23,)
    for length in (36, 40):
        with pytest.raises(tt.TTShapeError, match=r"in_features=37"):
            layer(torch.ones(length))
    with pytest.raises(tt.TTShapeError, match=r"in_features=41 must be 1..40"):
        TTLinear((4, 10), (4, 6), 2, in_features=41)
    with pytest.raises(tt.TTShapeError, match="multiply to"):
        TTLinear.from_dense(nn.Linear(37, 23), (4, 10), (4, 6))


def test_weight_is_built_differentiable_and_announced_once():
    layer = layer_of("layer")
    with pytest.warns(UserWarning, match="15 x 28"):
        weight = layer.weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = layer.weight
    assert torch.equal(weight, again)
    torch.testing.assert_close(
        weight, torch.einsum("amnb,bpqc->ampnqc", *layer.cores).reshape(15, 28)
    )
    weight.sum().backward()
    assert all(core.grad is not None for core in layer.cores)


def test_training_lowers_the_loss_as_that_of_the_dense_layer():
    torch.manual_seed(0)
    layer = TTLinear((4, 4), (4, 4), 4)
    goal = TTLinear((4, 4), (4, 4), 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(300):
        x = torch.randn(64, 16)
        loss = (layer(x) - goal(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.fixture
def seen(monkeypatch):
    """What `fc.forward` and `fc.backward` are called with, and what they return."""
    from ttcore.layers import direct, fc

    calls = []

    def watch(name):
        original = getattr(fc, name)

        def spy(*arguments, **options):
            calls.append((arguments, options, original(*arguments, **options)))
            return calls[-1][-1]

        monkeypatch.setattr(fc, name, spy)

    watch("forward")
    watch("backward")
    for name in ("product", "gradients"):
        monkeypatch.setattr(direct, name, lambda *_: None)
    return calls


@pytest.fixture
def handed_over(monkeypatch):
    """Calls on addresses: (arguments that choose the program, addresses)."""
    from ttcore.layers import direct

    calls = []

    def watch(name):
        original = getattr(direct, name)

        def spy(*args):
            found = original(*args)
            return found._replace(run=lambda *at: (calls.append((args, at)), found.run(*at)))

        monkeypatch.setattr(direct, name, spy)

    watch("product")
    watch("gradients")
    return calls


def test_addresses_are_those_of_the_tensors(handed_over):
    layer, x = layer_of("layer"), torch.randn(3, 28, dtype=torch.float64, requires_grad=True)
    cores = [g.data_ptr() for g in layer.cores]
    y = layer(x)
    gy = torch.randn_like(y)
    grads = torch.autograd.grad(y, [x, *layer.cores], gy)
    (_, forward), (_, backward) = handed_over
    assert forward == (cores, x.data_ptr(), layer.bias.data_ptr(), y.data_ptr())
    gx, *gcores = [g.data_ptr() for g in grads]
    assert backward == (cores, x.data_ptr(), gy.data_ptr(), gx, gcores)


def test_tensors_of_the_cpu_are_not_copied(seen):
    layer, x = layer_of("layer"), torch.randn(3, 28, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    gy = torch.randn_like(y)
    (gx,) = torch.autograd.grad(y, x, gy)
    (cores, x_, bias), _, y_ = seen[0]
    assert x_.ctypes.data == x.data_ptr()
    assert y_.ctypes.data == y.data_ptr()
    assert bias.ctypes.data == layer.bias.data_ptr()
    assert [g.ctypes.data for g in cores] == [g.data_ptr() for g in layer.cores]
    (cores, x_, gy_), _, (gx_, _, _) = seen[1]
    assert x_.ctypes.data == x.data_ptr()
    assert gy_.ctypes.data == gy.data_ptr()
    assert gx_.ctypes.data == gx.data_ptr()
    assert [g.ctypes.data for g in cores] == [g.data_ptr() for g in layer.cores]


@pytest.fixture(params=[1, 3])
def threads(request):
    """So many of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_as_many_threads_as_torch_has(seen, threads):
    layer, x = layer_of("layer"), torch.randn(3, 28, dtype=torch.float64)
    layer(x).sum().backward()
    assert [options["workers"] for _, options, _ in seen] == [threads, threads]


def test_as_many_threads_as_torch_has_on_addresses(handed_over, threads):
    layer, x = layer_of("layer"), torch.randn(3, 28, dtype=torch.float64)
    layer(x).sum().backward()
    assert [args[-1] for args, _ in handed_over] == [threads, threads]


def test_tensors_need_not_be_contiguous(layer):
    wide = torch.randn(layer.in_features, 5, 2, dtype=torch.float64)
    x = wide[..., 1].T.requires_grad_()
    cores = [g.detach().flip(0).flip(0).mT.contiguous().mT for g in layer.cores]
    cores = [g.requires_grad_() for g in cores]
    plain = x.detach().contiguous().requires_grad_()
    y, same = tt_linear(x, cores, layer.bias), layer(plain)
    torch.testing.assert_close(y, same)
    gy = torch.randn(layer.out_features, 5, dtype=torch.float64).T
    found = torch.autograd.grad(y, [x, *cores], gy)
    exact = torch.autograd.grad(same, [plain, *layer.cores], gy)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)
    expanded = torch.ones(1, layer.in_features, dtype=torch.float64).expand(4, -1)
    torch.testing.assert_close(layer(expanded), layer(expanded.contiguous()))


def test_a_torch_without_the_private_names_uses_its_own_products():
    """Slow, and right under every transformation."""
    script = """
import torch
from torch.autograd import forward_ad
del torch._C._are_functorch_transforms_active, torch._C._len_torch_dispatch_stack
level = forward_ad._current_level
del forward_ad._current_level
from ttcore.adapters.torch import TTLinear, ops
ops.run = ops.torch.ops.ttcore.fc = None  # neither is called
layer = TTLinear((4, 7), (5, 3), 3, dtype=torch.float64)
x = torch.randn(3, 28, dtype=torch.float64)
a, b = (g.detach() for g in layer.cores)
weight = torch.einsum("amnb,bpqc->ampnqc", a, b).reshape(15, 28)
torch.testing.assert_close(layer(x), x @ weight.T)
(gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
torch.testing.assert_close(gradient, weight.sum(0).expand(3, 28))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_parametrized_cores_are_used():
    from torch.nn.utils import parametrize

    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    layer = layer_of("layer")
    x = torch.randn(3, 28, dtype=torch.float64)
    y = layer(x) - layer.bias
    parametrize.register_parametrization(layer.cores, "0", Twice())
    torch.testing.assert_close(layer(x) - layer.bias, 2 * y)


def test_pruned_cores_are_used_and_stay_in_their_order():
    from torch.nn.utils import prune

    layer = layer_of("three cores")
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    prune.l1_unstructured(layer.cores, "0", amount=1)
    prune.l1_unstructured(layer, "bias", amount=1)
    cores = [getattr(layer.cores, str(k)) for k in range(3)]
    assert cores[0].count_nonzero() == cores[0].numel() - 1
    torch.testing.assert_close(layer(x), tt_linear(x, cores, layer.bias))


def test_wrong_shapes_get_one_error_that_explains():
    layer = layer_of("layer")
    with pytest.raises(tt.TTShapeError, match=r"\(3, 27\).*28"):
        layer(torch.ones(3, 27, dtype=torch.float64))
    with pytest.raises(tt.TTShapeError, match=r"in_modes \(2, 2\)"):
        TTLinear((2, 2), (2,), 1)
    with pytest.raises(tt.TTValueError, match="'xavier'"):
        TTLinear((2, 2), (2, 2), 1, init="xavier")


@pytest.mark.parametrize("moved", ["x", "core 1", "the bias"])
@pytest.mark.parametrize("transform", [lambda layer: layer, torch.func.vmap], ids=["plain", "vmap"])
def test_tensors_of_several_devices_get_one_error_that_names_them(moved, transform):
    layer, x = layer_of("layer"), torch.ones(3, 28, dtype=torch.float64)
    if moved == "x":
        x = x.to("meta")
    elif moved == "core 1":
        layer.cores[1] = nn.Parameter(layer.cores[1].to("meta"))
    else:
        layer.bias = nn.Parameter(layer.bias.to("meta"))
    other = "core 0" if moved == "x" else moved
    message = rf"x is on (cpu|meta), {other} on (cpu|meta); move"
    with pytest.raises(tt.TTTypeError, match=message):
        transform(layer)(x)


def test_the_example_of_the_documentation_runs():
    page = Path(__file__).parents[2] / "docs" / "layers.md"
    (code,) = re.findall(r"^```py\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    exec(compile(code, str(page), "exec"), {})
