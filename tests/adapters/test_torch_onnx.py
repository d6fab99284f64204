"""Export of `TTLinear` to ONNX: plain operators, the numbers of torch, any batch."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")
onnx = pytest.importorskip("onnx", reason="reads what was exported")
pytest.importorskip("onnxscript", reason="torch's exporter needs it")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was exported")

from torch import nn  # noqa: E402

from ttcore.adapters.torch import TTLinear, decompositions  # noqa: E402
from ttcore.testing import gamma, magnitude  # noqa: E402

# torch's exporters use what torch itself calls deprecated
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
PLAIN = {"MatMul", "Gemm", "Reshape", "Transpose", "Add"}
LAYERS = {
    "two cores": ((4, 7), (5, 3), 3),
    "one core": ((5,), (3,), 1),
    "six cores": ((2, 4, 4, 4, 4, 2), (4,) * 6, 4),
}


def layer_of(name):
    torch.manual_seed(0)
    layer = TTLinear(*LAYERS[name]).eval()
    nn.init.normal_(layer.bias)
    return layer


@pytest.fixture
def layer():
    return layer_of("six cores")


def assert_runs_as(layer, model, batches, lead=()):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (name,) = [given.name for given in session.get_inputs()]
    cores = [g.detach().numpy() for g in layer.cores]
    size = magnitude(cores).T.astype(float)
    for batch in batches:
        x = torch.randn(batch, *lead, layer.in_features)
        (y,) = session.run(None, {name: x.numpy()})
        exact = layer(x).detach().numpy()
        # both may be so far from the exact product
        bound = 2 * (gamma(np.float32, cores) + 1e-6) * (abs(x.numpy()) @ size + 10)
        assert y.shape == exact.shape
        assert (abs(y - exact) <= bound).all()


def kinds(model):
    assert not model.functions
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_becomes_plain_operators(name):
    layer = layer_of(name)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    x = torch.randn(3, layer.in_features)
    model = torch.onnx.export(layer, (x,), dynamic_shapes=shapes, dynamo=True).model_proto
    assert kinds(model) <= PLAIN
    assert_runs_as(layer, model, (1, 3, 50))


def test_leading_axes_may_be_dynamic():
    layer = layer_of("two cores")
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    x = torch.randn(3, 2, 28)
    model = torch.onnx.export(layer, (x,), dynamic_shapes=shapes, dynamo=True).model_proto
    assert_runs_as(layer, model, (1, 5), (2,))


def test_padding_is_exported():
    layer = TTLinear((4, 10), (4, 6), 3, in_features=37, out_features=23).eval()
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    model = torch.onnx.export(layer, (torch.randn(3, 37),), dynamic_shapes=shapes).model_proto
    kinds(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = torch.randn(8, 37)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x))


def test_a_program_of_torch_export_is_decomposed_first(layer):
    shapes = ({0: torch.export.Dim("batch", min=1, max=100)},)
    x = torch.randn(3, layer.in_features)
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
    assert any("ttcore" in str(node.target) for node in program.graph.nodes)
    model = torch.onnx.export(program.run_decompositions(decompositions())).model_proto
    assert kinds(model) <= PLAIN
    assert_runs_as(layer, model, (1, 3, 50))


def test_the_old_exporter_works_too(layer, tmp_path):
    x, path = torch.randn(3, layer.in_features), tmp_path / "layer.onnx"
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes of cores are constants
        torch.onnx.export(layer, (x,), path, dynamo=False, **options)
    model = onnx.load(path)
    assert kinds(model) <= {*PLAIN, "Constant", "Cast", "Shape", "Gather", "Concat"}
    assert_runs_as(layer, model, (1, 3, 50))


def test_tracing_records_the_operator():
    """Otherwise the answer for the example would be the answer for everything."""
    layer = layer_of("two cores")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TTLinear.weight")  # it looks at all attributes
        traced = torch.jit.trace(layer, torch.randn(3, 28))
    x = torch.randn(5, 28)
    assert torch.equal(traced(x), layer(x))
