"""`TTDelta`: it starts as the layer that it wraps, learns, and becomes a dense layer again."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from torch import nn  # noqa: E402

import ttcore as tt  # noqa: E402
from ttcore.adapters.torch import TTDelta, TTLinear  # noqa: E402


def linear(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(28, 15, dtype=dtype)


def conv1d(dtype=torch.float64):
    reason = "Conv1D is a layer of transformers"
    layers = pytest.importorskip("transformers.pytorch_utils", reason=reason)
    torch.manual_seed(0)
    layer = layers.Conv1D(15, 28).to(dtype)
    nn.init.normal_(layer.bias)
    return layer


@pytest.fixture(params=[linear, conv1d])
def base(request):
    return request.param()


def trained(layer, steps=5):
    """After some steps, so that the delta is no longer zero."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = torch.randn(40, 28, dtype=layer.base.weight.dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - x[:, :15]).square().mean().backward()
        optimizer.step()
    return layer


@pytest.mark.parametrize(
    "modes", [(), ((4, 7), (5, 3)), ((28,), (15,)), ((2, 2, 8), (4, 2, 2))], ids=str
)
def test_starts_as_the_layer_and_only_the_last_core_has_a_gradient(base, modes):
    x = torch.randn(6, 28, dtype=torch.float64, requires_grad=True)
    y = base(x)
    (gx,) = torch.autograd.grad(y.square().sum(), x)
    layer = TTDelta(base, 3, *modes)
    z = layer(x)
    assert torch.equal(z, y)
    z.square().sum().backward()
    assert torch.equal(x.grad, gx)
    *others, last = layer.delta.cores
    assert all(g.any() for g in others)
    assert not last.any()
    assert last.grad.any()
    assert not any(g.grad.any() for g in others)
    assert base.weight.grad is None
    assert base.bias.grad is None


def test_the_frozen_layer_stays_and_the_delta_learns(base):
    state = copy.deepcopy(base.state_dict())
    layer = TTDelta(base, 3)
    goal = TTLinear((7, 4), (5, 3), 2, dtype=torch.float64)
    x = torch.randn(200, 28, dtype=torch.float64)
    y = base(x) + goal(x).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]
    assert all(torch.equal(state[key], value) for key, value in base.state_dict().items())
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == [
        f"delta.cores.{k}" for k in range(len(layer.delta.cores))
    ]


def test_merging_gives_a_dense_layer_of_the_same_class_that_computes_the_same(base):
    layer = trained(TTDelta(base, 3).eval())
    merged = layer.merge()
    assert type(merged) is type(base)
    assert {key: v.shape for key, v in merged.state_dict().items()} == {
        key: v.shape for key, v in base.state_dict().items()
    }
    x = torch.randn(6, 28, dtype=torch.float64)
    torch.testing.assert_close(merged(x), layer(x))
    assert torch.dist(merged(x), base(x)) > 0.01
    assert not merged.training
    owned = {p.data_ptr() for p in layer.parameters()}
    assert owned.isdisjoint(p.data_ptr() for p in merged.parameters())
    assert not any(p.requires_grad for p in merged.parameters())


def test_weight_and_bias_are_those_of_the_sum_and_differentiable(base):
    layer = trained(TTDelta(base, 3))
    torch.testing.assert_close(layer.weight.detach(), layer.merge().weight)
    assert layer.bias is base.bias
    layer.weight.sum().backward()
    assert all(core.grad.any() for core in layer.delta.cores)
    assert (layer.in_features, layer.out_features) == (28, 15)


def test_state_copies_and_pickles(base):
    layer = trained(TTDelta(base, 3, (4, 7), (5, 3)))
    state = layer.state_dict()
    assert sorted(state) == ["base.bias", "base.weight", "delta.cores.0", "delta.cores.1"]
    x = torch.randn(6, 28, dtype=torch.float64)
    other = TTDelta(copy.deepcopy(base), 3, (4, 7), (5, 3))
    other.load_state_dict(state)
    for twin in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert not twin.base.weight.requires_grad
    layer.reset_parameters()
    assert torch.equal(layer(x), base(x))
    assert layer.delta.cores[0].any()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_with_cores_in_float32_or_not(base, half):
    base = base.to(half)
    x = torch.randn(6, 28).to(half)
    for dtype in (None, torch.float32):
        layer = trained(TTDelta(copy.deepcopy(base), 3, dtype=dtype))
        assert {g.dtype for g in layer.delta.cores} == {dtype or half}
        assert layer(x).dtype == half
        merged = layer.merge()
        assert merged.weight.dtype == half
        # two roundings of each number in the one, of each sum of 28 in the other
        size = x.float().abs().sum(-1, keepdim=True) * merged.weight.float().abs().max()
        bound = 4 * torch.finfo(half).eps * (size + layer(x).float().abs())
        assert ((merged(x).float() - layer(x).float()).abs() <= bound).all()


def test_takes_part_in_autocast_and_compilation(base):
    layer = trained(TTDelta(base, 3))
    x = torch.randn(6, 28, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    single = layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert single(x.float()).dtype == torch.bfloat16


def test_training_mode_and_bias_are_those_of_the_base():
    base = nn.Linear(28, 15, bias=False).eval()
    layer = TTDelta(base, 3)
    assert not any(module.training for module in layer.modules())
    assert layer.bias is None
    assert layer.merge().bias is None


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (lambda: ("fc", 3), tt.TTTypeError, "on base: a str; expected a plain torch.nn.Linear"),
        (lambda: (nn.Conv1d(3, 3, 1), 3), tt.TTTypeError, r"a torch\.nn\.modules\.conv\.Conv1d"),
        (lambda: (TTLinear((4, 7), (5, 3), 2), 3), tt.TTTypeError, "TTLinear"),
        (lambda: (nn.LazyLinear(15), 3), tt.TTTypeError, "not initialised yet"),
        (lambda: (nn.utils.parametrizations.weight_norm(linear()), 3), tt.TTTypeError, "parametr"),
        (lambda: (linear(), 0), tt.TTValueError, "rank"),
        (lambda: (linear(), 3, (4, 7)), tt.TTTypeError, "give both, or neither"),
        (lambda: (linear(), 3, (4, 6), (5, 3)), tt.TTShapeError, "in_features=28 must be 1..24"),
    ],
)
def test_bad_arguments_get_one_error_that_explains(arguments, kind, message):
    with pytest.raises(kind, match=message):
        TTDelta(*arguments())


def test_a_base_that_is_refused_is_not_frozen():
    base = linear()
    with pytest.raises(tt.TTShapeError):
        TTDelta(base, 3, (4, 6), (5, 3))
    assert base.weight.requires_grad
