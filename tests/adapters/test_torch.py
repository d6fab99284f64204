"""`TTLinear` against the dense layer: values, gradients, and what torch does with operators."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from torch import nn  # noqa: E402

from ttcore.adapters.torch import TTLinear, tt_linear  # noqa: E402
from ttcore.errors import TTShapeError, TTValueError  # noqa: E402
from ttcore.testing import assert_within, dense_matrix, gamma, magnitude  # noqa: E402

SHAPES = {
    "layer": ((4, 7), (5, 3), 3),
    "three cores": ((2, 3, 1), (1, 2, 4), (3, 2)),
    "over-full": ((2, 2), (1, 2), (9,)),
    "one core": ((5,), (3,), 1),
}

# torch's own forward mode still uses what torch itself calls deprecated
FORWARD_MODE = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def layer_of(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = TTLinear(*SHAPES[name], dtype=dtype, **options)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def dense_of(layer):
    """The same layer as torch has it, its weight expanded by an oracle."""
    weight = dense_matrix([g.detach().numpy() for g in layer.cores]).astype(float)
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    linear = linear.to(layer.cores[0].dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        if layer.bias is not None:
            linear.bias.copy_(layer.bias)
    return linear


@pytest.fixture(params=SHAPES)
def layer(request):
    return layer_of(request.param)


def arguments(layer, *lead):
    x = torch.randn(*lead, layer.in_features, dtype=torch.float64, requires_grad=True)
    return x, [g.detach().requires_grad_() for g in layer.cores], layer.bias


# values


@pytest.mark.parametrize("lead", [(), (1,), (13,), (0,), (2, 3)], ids=str)
def test_output_is_that_of_the_dense_layer(layer, lead):
    x = torch.randn(*lead, layer.in_features, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (*lead, layer.out_features)
    cores = [g.detach().numpy() for g in layer.cores]
    exact = x.numpy() @ dense_matrix(cores).T + layer.bias.detach().numpy()
    size = np.abs(x.numpy()) @ magnitude(cores).T + np.abs(layer.bias.detach().numpy())
    assert_within(y.detach().numpy(), exact, (gamma(float, cores) + 4e-16) * size)


@pytest.mark.parametrize("lead", [(6,), (1,), (1, 1), ()], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_dense_weight_pulled_back(layer, bias, lead):
    """Torch differentiates the dense layer with its weight expanded by einsum."""
    x, cores, shift = arguments(layer, *lead)
    shift = shift if bias else None
    y = tt_linear(x, cores, shift)
    gy = torch.randn_like(y)
    operands = [x, *cores, *([shift] if bias else [])]
    found = torch.autograd.grad(y, operands, gy)
    weight = cores[0]
    for core in cores[1:]:
        step = torch.einsum("amnb,bpqc->ampnqc", weight, core)
        weight = step.reshape(1, step.shape[1] * step.shape[2], -1, step.shape[-1])
    exact = torch.autograd.grad(nn.functional.linear(x, weight[0, :, :, 0], shift), operands, gy)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@FORWARD_MODE
def test_gradcheck_and_gradgradcheck_pass(layer):
    x, cores, bias = arguments(layer, 2)

    def run(x, bias, *cores):
        return tt_linear(x, cores, bias)

    assert torch.autograd.gradcheck(run, (x, bias, *cores))
    assert torch.autograd.gradgradcheck(run, (x, bias, *cores))
    assert torch.autograd.gradcheck(run, (x, bias, *cores), check_forward_ad=True)


def test_second_derivatives_are_those_of_the_dense_weight(layer):
    """A penalty on the gradient, as plain eager code has it; a check of torch's does not see it."""
    x, cores, bias = arguments(layer, 3)

    def penalty(y):
        (gx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gx.square().sum(), [x, *cores, bias])

    weight = cores[0]
    for core in cores[1:]:
        step = torch.einsum("amnb,bpqc->ampnqc", weight, core)
        weight = step.reshape(1, step.shape[1] * step.shape[2], -1, step.shape[-1])
    found = penalty(tt_linear(x, cores, bias))
    exact = penalty(nn.functional.linear(x, weight[0, :, :, 0], bias))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_modes_that_watch_operators_see_this_one():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    layer = layer_of("layer")
    with Watch():
        layer(torch.ones(28, dtype=torch.float64))
    assert torch.ops.ttcore.fc.default in seen


def test_mixed_dtypes_promote_and_gradients_have_those_of_their_operands():
    layer = layer_of("layer", torch.float32)
    for dtype in (torch.float64, torch.complex64):
        x = torch.ones(2, 28, dtype=dtype, requires_grad=True)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        for run in (layer, compiled):
            layer.zero_grad()
            y = run(x)
            assert y.dtype == dtype
            y.abs().sum().backward()
            assert x.grad.dtype == dtype
            assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_gradcheck_passes_for_complex_numbers():
    torch.manual_seed(0)
    shapes = [(2, 6), (4,), (1, 2, 2, 3), (3, 2, 3, 1)]
    x, bias, *cores = (torch.randn(s, dtype=torch.complex128, requires_grad=True) for s in shapes)

    def run(x, bias, *cores):
        return tt_linear(x, cores, bias)

    assert torch.autograd.gradcheck(run, (x, bias, *cores))
    assert torch.autograd.gradgradcheck(run, (x, bias, *cores))
    view = x.detach().conj()  # conjugated on paper only
    torch.testing.assert_close(tt_linear(view, cores), tt_linear(view.resolve_conj(), cores))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_operators_pass_the_checks_of_torch(name, dtype):
    layer = layer_of(name, dtype)
    cores = [g.detach().requires_grad_() for g in layer.cores]
    bias = layer.bias
    x, gy = (
        torch.randn(3, size, dtype=dtype, requires_grad=True)
        for size in (layer.in_features, layer.out_features)
    )
    for shift in (bias, None):
        torch.library.opcheck(torch.ops.ttcore.fc.default, (x, cores, shift))
    torch.library.opcheck(torch.ops.ttcore.fc_backward.default, (x, cores, gy))


def test_the_operator_and_the_way_around_it_give_the_same_bits(layer):
    x, cores, bias = arguments(layer, 5)
    y, same = tt_linear(x, cores, bias), torch.ops.ttcore.fc(x, cores, bias)
    assert torch.equal(y, same)
    gy = torch.randn_like(y)
    operands = (bias, x, *cores)
    (gbias, *found), (summed, *others) = (
        torch.autograd.grad(out, operands, gy) for out in (y, same)
    )
    assert all(map(torch.equal, found, others))
    torch.testing.assert_close(gbias, summed, rtol=0, atol=1e-14)  # in torch's own order


@pytest.mark.parametrize("operand", ["x", "core", "bias", "gradient"])
@pytest.mark.parametrize(
    "view",
    [
        torch._neg_view,
        lambda a: torch.stack([a, a], -1)[..., 0],
        lambda a: a.repeat_interleave(2, 0)[::2],
    ],
    ids=["negative on paper only", "strided", "every other"],
)
def test_memory_that_is_not_in_order_is_read_as_it_is_meant(view, operand):
    torch.manual_seed(0)
    shapes = {"x": (15, 15), "other": (1, 3, 3, 2), "core": (2, 5, 5, 1), "bias": (15,)}
    plain = {
        name: torch.randn(shape, dtype=torch.float64)
        for name, shape in {**shapes, "gradient": (15, 15)}.items()
    }
    changed = view(plain[operand])
    assert changed.is_neg() or not changed.is_contiguous()
    given = {**plain, operand: changed}
    plain[operand] = changed.resolve_neg().contiguous()
    results = []
    for at in (plain, given):
        operands = [at[name].detach().requires_grad_() for name in ("x", "other", "core", "bias")]
        y = tt_linear(operands[0], operands[1:3], operands[3])
        results.append((y, *torch.autograd.grad(y, operands, at["gradient"])))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recorded", [False, True])
def test_the_default_device_of_torch_does_not_matter(dtype, recorded):
    layer, x = TTLinear((4, 7), (5, 3), 2, dtype=dtype), torch.randn(3, 28, dtype=dtype)
    y = layer(x)
    with torch.device("meta"), torch.set_grad_enabled(recorded):
        again = layer(x)
        assert torch.equal(again, y)
        if recorded:
            (g,) = torch.autograd.grad(again, layer.cores[0], y.detach())
            assert g.device.type == "cpu"


def test_tensors_without_memory():
    layer, x = TTLinear((4, 7), (5, 3), 2), torch.randn(2, 28)
    nothing = torch._efficientzerotensor((2, 28))
    torch.testing.assert_close(layer(nothing), layer(torch.zeros(2, 28)))
    y = layer(x)
    y.backward(torch._efficientzerotensor((2, 15)))
    assert all((g.grad == 0).all() for g in layer.cores)
    for values in (torch.randn(4, 28), torch.randn(2, 28)):
        x = values[-2:]  # with an offset, and without
        values.untyped_storage().resize_(0)
        with torch.no_grad(), pytest.raises(TTValueError, match="has no memory"):
            layer(x)


def test_gradients_of_the_bias_are_silent():
    layer = TTLinear((8, 8), (8, 16), 2)
    gy = torch.zeros(1000, 128)
    gy[3, 5], gy[7, 5], gy[9, 6] = torch.inf, -torch.inf, torch.inf
    with np.errstate(all="raise"):
        layer(torch.zeros(1000, 64)).backward(gy)
    assert layer.bias.grad[5].isnan()
    assert layer.bias.grad[6].isinf()


def test_sums_send_back_one_number_many_times():
    cores = [torch.randn(1, 3, 4, 2), torch.randn(2, 5, 2, 1)]
    x = torch.randn(6, 8, requires_grad=True)
    (gx,) = torch.autograd.grad(tt_linear(x, cores).sum(), x)
    (want,) = torch.autograd.grad(tt_linear(x, cores), x, torch.ones(6, 15))
    assert torch.equal(gx, want)


def test_other_data_behind_the_same_parameters_are_seen():
    layer = TTLinear((4, 3), (3, 5), rank=2)
    x = torch.randn(2, 12)
    with torch.no_grad():
        layer(x)
        first, last = layer.cores
        for changed in (
            torch.randn(1, 3, 4, 2),
            torch.randn(2, 4, 3, 1).permute(3, 2, 1, 0),  # other strides
        ):
            first.data = changed
            dense = layer.to_dense()
            torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)
        first.data, last.data = torch.randn(1, 3, 4, 3), torch.randn(3, 5, 3, 1)  # another rank
        torch.testing.assert_close(layer(x), x @ layer.to_dense().T + layer.bias)
        first.data = torch.randn(1, 2, 4, 3)
        with pytest.raises(TTShapeError, match="bias"):
            layer(x)


# compilers and transformations


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(layer, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (3, 5):
        x = torch.randn(batch, layer.in_features, dtype=torch.float64, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        (gx,) = torch.autograd.grad(y.square().sum(), x)
        (exact,) = torch.autograd.grad(layer(x).square().sum(), x)
        torch.testing.assert_close(gx, exact)


def test_exports(layer):
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2, max=100)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    other = torch.randn(7, layer.in_features, dtype=torch.float64)
    torch.testing.assert_close(program.module()(other), layer(other))
    assert set(program.state_dict) == set(layer.state_dict())


@FORWARD_MODE
def test_transformations_of_functions(layer):
    """torch.func: grad, vmap over inputs and over layers, per-sample gradients, both Jacobians."""
    params = {k: v.detach() for k, v in layer.named_parameters()}
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    dense = dense_of(layer)
    weight, bias = dense.weight.detach(), dense.bias.detach()

    def loss(params, x):
        return torch.func.functional_call(layer, params, (x,)).square().sum()

    gradients = torch.func.grad(loss)(params, x)
    layer.zero_grad()
    loss(dict(layer.named_parameters()), x).backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    torch.testing.assert_close(torch.func.vmap(layer, in_dims=1)(x.T), layer(x))
    several = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for name, gradient in gradients.items():
        torch.testing.assert_close(several[name].sum(0), gradient)
    torch.testing.assert_close(torch.func.jacrev(layer)(x[0]), weight)
    torch.testing.assert_close(torch.func.jacfwd(layer)(x[0]), weight)
    y, dy = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(y, x @ weight.T + bias)
    torch.testing.assert_close(dy, torch.ones_like(x) @ weight.T)
    hessian = torch.func.hessian(lambda x: loss(params, x))(x[0])
    torch.testing.assert_close(hessian, 2 * weight.T @ weight)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in params.items()}
    both = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
    torch.testing.assert_close(both[0], layer(x))


@FORWARD_MODE
@pytest.mark.filterwarnings("ignore::UserWarning")  # of the compiler, about itself
def test_compiled_transformations_are_right(layer):
    """The compiler leaves the graph for them; the operator alone would give a tangent of zero."""
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    transformed = {
        "vmap": torch.func.vmap(layer),
        "grad": torch.func.grad(lambda x: layer(x).square().sum()),
        "jvp": lambda x: torch.func.jvp(layer, (x,), (x,))[1],
    }
    for run in transformed.values():
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(run, backend="aot_eager")(x), run(x))
