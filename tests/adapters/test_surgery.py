"""`replace_layers`: what it replaces is as good as it says, what it keeps stays untouched."""

import copy
import dataclasses
import re
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

import ttcore as tt  # noqa: E402
from ttcore.adapters.torch import (  # noqa: E402
    TTDelta,
    TTLinear,
    rebuild_layers,
    replace_layers,
)


def smooth(linear, noise=1e-4):
    """Give a layer a weight that a train approximates up to some noise, as after good training."""
    with torch.no_grad():
        size = linear.weight.shape
        modes = tt.layers.modes.usual_modes(*size)
        train = TTLinear(*modes[::-1], 2, in_features=size[1], out_features=size[0])
        weight = train.to_dense()
        linear.weight.copy_(weight + noise * weight.std() * torch.randn(size))
    return linear


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        smooth(nn.Linear(96, 128)), nn.Tanh(), smooth(nn.Linear(128, 60, bias=False)), nn.Tanh()
    ).double()


def count(model):
    return sum(p.numel() for p in model.parameters())


def of_class(model, kind):
    return [name for name, module in model.named_modules() if type(module) is kind]


# what is replaced


@pytest.mark.parametrize("goal", [{"eps": 1e-3}, {"ratio": 5}, {"rank": 3}], ids=str)
def test_the_report_tells_what_happened(goal):
    net = network()
    old = copy.deepcopy(net)
    report = replace_layers(net, **goal)
    assert of_class(net, TTLinear) == ["0", "2"] == [r.names[0] for r in report.replaced]
    assert (report.before, report.after) == (count(old), count(net))
    for name in ("0", "2"):
        row, new, dense = report[name], net.get_submodule(name), old.get_submodule(name)
        assert (row.before, row.after) == (count(dense), count(new))
        assert (row.in_modes, row.out_modes, row.ranks) == (new.in_modes, new.out_modes, new.ranks)
        assert row.shape == dense.weight.shape
        error = torch.dist(new.to_dense(), dense.weight) / dense.weight.norm()
        assert row.error == pytest.approx(error.item(), rel=1e-6, abs=1e-14)
        cores = sum(core.numel() for core in new.cores)
        assert {
            "eps": row.error <= 1e-3,
            "ratio": 5 * cores <= dense.weight.numel(),
            "rank": max(new.ranks) <= 3,
        }[next(iter(goal))]
        x = torch.randn(7, new.in_features, dtype=torch.float64)
        moved = torch.linalg.vector_norm(new(x) - dense(x), dim=-1)
        bound = row.error * dense.weight.norm() * torch.linalg.vector_norm(x, dim=-1)
        assert (moved <= bound + 1e-12).all()


def test_a_dry_run_reports_the_same_and_changes_nothing():
    net = network()
    modules, state = list(net.modules()), copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    dry = replace_layers(net, eps=1e-3, dry_run=True)
    assert list(net.modules()) == modules
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    wet = replace_layers(net, eps=1e-3)
    assert dataclasses.replace(dry, dry_run=False) == wet
    assert torch.equal(torch.get_rng_state(), random)
    assert str(dry).replace("would be ", "") == str(wet)


def test_the_table_has_a_row_for_each_layer_and_the_totals():
    net = network()
    text = str(replace_layers(net, eps=1e-3, exclude="2"))
    head, first, second, last = text.splitlines()
    assert head.split() == ["layer", "out", "x", "in", "parameters", "error"]
    assert re.fullmatch(r"0 +128 x 96 +12416 -> \d+ +\d\.\de-\d\d +\(.*\) x .*, ranks .*", first)
    assert re.fullmatch(r"2 +60 x 128 +7680 +kept: excluded by '2'", second)
    total = f"1 of 2 layers replaced, eps=0.001; the model: 20096 -> {count(net)} parameters, "
    assert last.startswith(total)
    assert last.endswith(" times fewer")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["a.fc1", "a.fc2", "b.fc1", "b.fc2"]),
        ({"include": "*.fc1"}, ["a.fc1", "b.fc1"]),
        ({"include": ["a.*", "b.fc2"]}, ["a.fc1", "a.fc2", "b.fc2"]),
        ({"exclude": "a*"}, ["b.fc1", "b.fc2"]),
        ({"include": "a*", "exclude": "*2"}, ["a.fc1"]),
        ({"min_params": 65 * 64}, ["a.fc2", "b.fc2"]),
        ({"include": "?.fc[1]"}, ["a.fc1", "b.fc1"]),
        ({"include": ()}, []),
    ],
    ids=str,
)
def test_patterns_and_sizes_choose_layers(options, names):
    def block():
        return nn.ModuleDict({"fc1": nn.Linear(64, 64), "fc2": nn.Linear(64, 128)})

    model = nn.ModuleDict({"a": block(), "b": block()})
    report = replace_layers(model, rank=2, **options)
    assert [row.names[0] for row in report.replaced] == of_class(model, TTLinear) == names
    assert len(report.layers) == 4
    assert all(row.reason for row in report.kept)


def test_sizes_without_good_factors_are_padded():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(509, 251))
    old = copy.deepcopy(net)
    report = replace_layers(net, ratio=2)
    assert isinstance(net[0], TTLinear)
    x = torch.randn(3, 509)
    moved = torch.linalg.vector_norm(net(x) - old(x), dim=-1)
    bound = report["0"].error * old[0].weight.norm() * torch.linalg.vector_norm(x, dim=-1)
    assert (moved <= 1.001 * bound).all()  # float32


def test_mode_device_dtype_bias_and_flags_are_kept():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.complex64):
        net = nn.Sequential(nn.Linear(64, 64, dtype=dtype), nn.Linear(64, 64, dtype=dtype))
        net[0].weight.requires_grad_(False)
        net[0].eval()
        biases = [linear.bias for linear in net]
        report = replace_layers(net, rank=2)
        assert of_class(net, TTLinear) == ["0", "1"]
        assert [layer.bias for layer in net] == biases  # the same parameters
        assert {p.dtype for p in net.parameters()} == {dtype}
        assert {p.requires_grad for p in net[0].cores} == {False}
        assert {p.requires_grad for p in net[1].cores} == {True}
        assert [module.training for module in (net[0], net[0].cores, net[1])] == [
            *(False, False, True)
        ]
        assert net(torch.ones(3, 64, dtype=dtype)).dtype == dtype
        assert 0 < report["0"].error <= 1.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_stays_there():
    net = network().cuda()
    old = copy.deepcopy(net)
    report = replace_layers(net, eps=1e-3)
    assert len(report.replaced) == 2
    assert all(p.is_cuda for p in net.parameters())
    x = torch.randn(3, 96, dtype=torch.float64, device="cuda")
    assert torch.dist(net(x), old(x)) < 0.01 * old(x).norm()


def test_a_layer_in_two_places_stays_one_layer():
    linear = nn.Linear(64, 64)
    block = nn.Sequential(nn.Linear(64, 64))
    model = nn.ModuleDict({"a": linear, "b": nn.Sequential(linear), "c": block, "d": block})
    report = replace_layers(model, rank=2)
    assert [row.names for row in report.layers] == [("a", "b.0"), ("c.0", "d.0")]
    assert isinstance(model["a"], TTLinear)
    assert model["a"] is model["b"][0]
    assert isinstance(model["c"][0], TTLinear)
    assert report.after == count(model)
    assert "b.0" in str(report)
    kept = replace_layers(nn.ModuleDict({"a": linear, "b": linear}), rank=2, exclude="b")
    assert kept["a"].reason == "excluded by 'b'"


def test_a_layer_that_is_used_twice_gathers_its_gradients():
    torch.manual_seed(0)
    linear = smooth(nn.Linear(64, 64)).double()
    model = nn.Sequential(linear, nn.Tanh(), linear)
    x = torch.randn(5, 64, dtype=torch.float64)
    replace_layers(model, eps=1e-3)
    model(x).square().sum().backward()
    weight = model[0].to_dense()
    linear.weight = nn.Parameter(weight.detach())
    exact = torch.autograd.grad(
        nn.Sequential(linear, nn.Tanh(), linear)(x).square().sum(), [linear.weight, linear.bias]
    )
    torch.testing.assert_close(model[0].bias.grad, exact[1])
    pulled = torch.autograd.grad(weight, list(model[0].cores), exact[0])
    for core, gradient in zip(model[0].cores, pulled, strict=True):
        torch.testing.assert_close(core.grad, gradient)


# what is kept, by name and with the reason


def tied():
    model = nn.ModuleDict({"embedding": nn.Embedding(64, 64), "fc": nn.Linear(64, 64)})
    model["fc"].weight = model["embedding"].weight
    return model


def tied_by_memory():
    model = nn.ModuleDict({"embedding": nn.Embedding(80, 64), "fc": nn.Linear(64, 64)})
    model["fc"].weight = nn.Parameter(model["embedding"].weight.detach()[8:72])
    return model


def tied_to_a_buffer():
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(64), "fc": nn.Linear(64, 64)})
    model["norm"].register_buffer("copy", model["fc"].weight.detach())
    return model


def one(module):
    return nn.ModuleDict({"fc": module})


def parametrized():
    return one(parametrizations.orthogonal(nn.Linear(64, 64)))


def weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return one(nn.utils.weight_norm(nn.Linear(64, 64)))


def spectral_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return one(nn.utils.spectral_norm(nn.Linear(64, 64)))


def pruned():
    return one(prune.l1_unstructured(nn.Linear(64, 64), "weight", amount=0.5))


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and used
        return torch.ao.quantization.quantize_dynamic(one(nn.Linear(64, 64)))


def with_weight(weight):
    linear = nn.Linear(64, 64, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return one(linear)


class OtherTensor(torch.Tensor):
    """As the tensors of quantisation libraries, which are no plain ones."""


class LoRA(nn.Module):
    """As PEFT wraps layers."""

    def __init__(self):
        super().__init__()
        self.in_features = self.out_features = 64
        self.base_layer = nn.Linear(64, 64)


def hooked():
    model = one(nn.Linear(64, 64))
    model["fc"].register_forward_hook(lambda *args: None)
    return model


def hooked_weight():
    model = one(nn.Linear(64, 64))
    model["fc"].weight.register_hook(lambda gradient: gradient)
    return model


def another_forward():
    model = one(nn.Linear(64, 64))
    model["fc"].forward = lambda x: x
    return model


def more_than_a_layer():
    model = one(nn.Linear(64, 64))
    model["fc"].register_buffer("scale", torch.ones(()))
    return model


def more_parameters():
    model = one(nn.Linear(64, 64))
    model["fc"].lora = nn.Parameter(torch.ones(64, 2))
    return model


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (tied, "fc", "its weight is tied to embedding.weight"),
        (tied_by_memory, "fc", "its weight is tied to embedding.weight"),
        (tied_to_a_buffer, "fc", "its weight is tied to norm.copy"),
        (parametrized, "fc", "parametrised: weight"),
        (weight_norm, "fc", "its weight or bias is computed from weight_g, weight_v"),
        (spectral_norm, "fc", "computed from weight_orig, weight_u"),
        (pruned, "fc", "its weight or bias is computed from weight_orig, weight_mask"),
        (quantised, "fc", "quantized.dynamic.modules.linear.Linear, quantised or of its own kind"),
        (lambda: one(nn.LazyLinear(64)), "fc", "not initialised yet: run a batch"),
        (lambda: with_weight(torch.ones(64, 64, dtype=torch.int8)), "fc", "quantised: int8"),
        (
            lambda: with_weight(torch.ones(64, 64).to(torch.float8_e4m3fn)),
            "fc",
            "quantised: float8_e4m3fn",
        ),
        (
            lambda: with_weight(torch.ones(64, 64).as_subclass(OtherTensor)),
            "fc",
            r"its weight is a .*\.OtherTensor",
        ),
        (lambda: with_weight(torch.eye(64).to_sparse()), "fc", "its weight is sparse"),
        (lambda: with_weight(torch.full((64, 64), torch.inf)), "fc", "holds NaN or Inf"),
        (lambda: one(nn.Linear(64, 64, device="meta")), "fc", "its weight is on the meta device"),
        (
            lambda: one(nn.MultiheadAttention(64, 4)),
            "fc.out_proj",
            "NonDynamicallyQuantizableLinear, whose weight others may read",
        ),
        (hooked, "fc", "has hooks: forward_hooks"),
        (hooked_weight, "fc", "has hooks: those of its weight"),
        (another_forward, "fc", "its forward was replaced"),
        (more_than_a_layer, "fc", "holds more than weight and bias: scale"),
        (more_parameters, "fc", "holds more than weight and bias: lora"),
        (lambda: one(TTDelta(nn.Linear(64, 64), 2)), "fc.base", "wrapped by a TTDelta"),
        (lambda: one(LoRA()), "fc.base_layer", "wrapped by a LoRA"),
        (lambda: one(TTLinear((8, 8), (8, 8), 2)), "fc", "a TTLinear already"),
        (lambda: one(nn.Linear(64, 63)), "fc", "has 4032 weights, below min_params=4096"),
    ],
)
def test_kept_layers_are_named_with_the_reason(make, name, reason):
    model = make()
    model["other"] = smooth(nn.Linear(64, 64))
    module = model.get_submodule(name)
    tensors = dict(module._parameters)
    report = replace_layers(model, eps=0.01)
    assert re.search(reason, report[name].reason)
    assert report[name].error is None
    assert report[name].before == report[name].after
    assert model.get_submodule(name) is module
    assert module._parameters == tensors
    assert isinstance(model["other"], TTLinear)
    assert name in str(report)


def test_layers_that_would_not_get_smaller_are_kept():
    torch.manual_seed(0)
    for goal in ({"eps": 1e-3}, {"rank": 64}, {"ratio": 4000}):
        net = nn.Sequential(nn.Linear(64, 64))  # a random weight has full ranks
        report = replace_layers(net, **goal)
        assert isinstance(net[0], nn.Linear)
        expected = "no candidate is within" if "ratio" in goal else "would not get smaller"
        assert expected in report["0"].reason
        assert report.before == report.after == count(net)


def test_a_container_with_sizes_is_no_layer():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 64, 64
            self.net = nn.Sequential(nn.Linear(64, 64))

    report = replace_layers(one(Block()), rank=2)
    assert [row.names for row in report.layers] == [("fc.net.0",)]
    assert report.replaced


def test_encoders_of_torch_compute_the_same_in_training_and_inference():
    """In inference they read the weights of their linear layers by themselves."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    replace_layers(encoder, rank=4)
    assert of_class(encoder, TTLinear) == ["linear1", "linear2"]
    x = torch.randn(2, 5, 64)
    trained = encoder(x)
    with torch.no_grad(), pytest.warns(UserWarning, match="TTLinear.weight"):
        torch.testing.assert_close(encoder.eval()(x), trained)


# never half changed


def test_an_error_on_the_way_leaves_the_model_as_it_was(monkeypatch):
    net = network()
    modules = list(net.modules())
    original, calls = TTLinear.from_dense, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(TTLinear, "from_dense", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_layers(net, eps=1e-3)
    assert list(net.modules()) == modules


# from a state dict


def test_a_new_model_is_rebuilt_from_the_state_dict():
    def make():
        shared = nn.Linear(509, 64)
        layers = {"a": nn.Linear(64, 128, bias=False), "b": shared, "c": nn.Linear(8, 8)}
        return nn.ModuleDict({**layers, "d": nn.ModuleList([shared])}).double()

    torch.manual_seed(0)
    model = make()
    replace_layers(model, ratio=3)
    new = make().eval()
    random = torch.get_rng_state()
    assert rebuild_layers(new, model.state_dict()) == ("a", "b")
    assert torch.equal(torch.get_rng_state(), random)
    new.load_state_dict(model.state_dict())
    assert new["b"] is new["d"][0]
    assert not any(module.training for module in new.modules())
    for name in ("a", "b"):
        x = torch.randn(3, model[name].in_features, dtype=torch.float64)
        assert torch.equal(new[name](x), model[name](x))


def test_deltas_are_rebuilt_beside_replaced_layers():
    def make():
        return nn.Sequential(nn.Linear(60, 64), nn.Linear(64, 61), nn.Linear(61, 64)).bfloat16()

    torch.manual_seed(0)
    model = make()
    model[0] = TTDelta(model[0], rank=2, dtype=torch.float32)
    model[1] = TTDelta(model[1], 3, (8, 8), (8, 8))
    torch.nn.init.normal_(model[0].delta.cores[-1])
    replace_layers(model, include="2", rank=3, min_params=0)
    new, random = make(), torch.get_rng_state()
    assert rebuild_layers(new, model.state_dict()) == ("0", "1", "2")
    assert torch.equal(torch.get_rng_state(), random)
    new.load_state_dict(model.state_dict())
    x = torch.randn(3, 60, dtype=torch.bfloat16)
    assert torch.equal(new(x), model(x))
    assert [p.dtype for p in new.parameters()] == [p.dtype for p in model.parameters()]
    assert [p.requires_grad for p in new.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_a_delta_that_does_not_fit_leaves_all_layers_trainable():
    state = nn.Sequential(
        TTDelta(nn.Linear(64, 64), 2), TTDelta(nn.Linear(64, 64), 2), nn.Linear(64, 64)
    ).state_dict()
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 100))
    with pytest.raises(tt.TTShapeError, match=r"^1.delta: .*out_features=100"):
        rebuild_layers(net, state)
    assert all(p.requires_grad for p in net.parameters())
    assert [type(module) for module in net] == [nn.Linear, nn.Linear]


def test_a_delta_that_is_refused_leaves_all_layers_trainable():
    layers = [TTDelta(nn.Linear(64, 64), 2), TTDelta(nn.Linear(64, 64), 2)]
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    nn.init.constant_(net[1].weight, torch.nan)
    with pytest.raises(tt.TTTypeError):
        rebuild_layers(net, nn.Sequential(*layers).state_dict())
    assert all(p.requires_grad for p in net.parameters())


def test_a_model_without_values_is_rebuilt_without_values():
    state = nn.Sequential(TTLinear((8, 8), (8, 8), 2)).state_dict()
    model = nn.Sequential(nn.Linear(64, 64, device="meta"))
    rebuild_layers(model, state)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.load_state_dict(state, assign=True)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model(torch.ones(64)).shape == (64,)


def test_state_dicts_that_do_not_fit_are_refused():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    small = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 100))
    state = nn.Sequential(TTLinear((8, 8), (8, 8), 2), TTLinear((8, 8), (8, 8), 2)).state_dict()
    with pytest.raises(tt.TTValueError, match=r"has no cores .* '0.weight'"):
        rebuild_layers(net, net.state_dict())
    modules = list(small.modules())
    with pytest.raises(tt.TTShapeError, match=r"^1: .*out_features=100"):
        rebuild_layers(small, state)
    assert list(small.modules()) == modules
    with pytest.raises(tt.TTShapeError, match=r"^0: cores of shapes"):
        rebuild_layers(net, {"0.cores.0": torch.ones(64, 64)})


# errors


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, tt.TTValueError, "no goal; give exactly one of eps, ratio and rank"),
        ({"eps": 0.1, "rank": 3}, tt.TTValueError, "eps and rank"),
        ({"eps": 0.0}, tt.TTValueError, "eps=0.0 must be below 1"),
        ({"eps": "small"}, tt.TTTypeError, "eps='small'"),
        ({"ratio": 1}, tt.TTValueError, "ratio=1 must be above 1"),
        ({"ratio": float("nan")}, tt.TTValueError, "ratio=nan"),
        ({"rank": 0}, tt.TTValueError, "rank=0"),
        ({"rank": 2.5}, tt.TTTypeError, "rank=2.5"),
        ({"rank": 2, "min_params": -1}, tt.TTValueError, "min_params=-1"),
        ({"rank": 2, "min_params": 1e3}, tt.TTTypeError, "min_params=1000.0"),
        ({"rank": 2, "include": "fc"}, tt.TTValueError, r"include: 'fc' matches none .*\(0, 2\)"),
        ({"rank": 2, "exclude": ["0", "3"]}, tt.TTValueError, "exclude: '3' matches none"),
        ({"rank": 2, "include": [len]}, tt.TTTypeError, "include holds <built-in function len>"),
        ({"rank": 2, "include": 0}, tt.TTTypeError, "include=0"),
    ],
    ids=str,
)
def test_bad_arguments_get_one_error_that_explains(options, kind, message):
    net = network()
    with pytest.raises(kind, match=message):
        replace_layers(net, **options)
    assert not of_class(net, TTLinear)


def test_models_that_cannot_be_changed_in_place_are_refused():
    with pytest.raises(tt.TTTypeError, match="model is a function"):
        replace_layers(replace_layers, rank=2)
    with pytest.raises(tt.TTTypeError, match=r"itself a Linear.*TTLinear\.from_dense"):
        replace_layers(nn.Linear(64, 64), rank=2)

    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(network())
        with pytest.raises(tt.TTTypeError, match=r"is a DistributedDataParallel.*then wrap"):
            replace_layers(wrapped, rank=2)
    finally:
        distributed.destroy_process_group()


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "surgery.md"
    blocks = re.findall(r"^```py\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    session = {}
    for code in blocks:
        exec(compile(code, str(page), "exec"), session)
    assert len(blocks) >= 3
