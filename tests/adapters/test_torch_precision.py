"""`TTLinear` in half precision, under autocast, and where numbers are complex."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

from torch import nn  # noqa: E402

from ttcore.adapters.torch import TTLinear, host, ops, tt_linear  # noqa: E402

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def layer_of(dtype, modes=((4, 7), (5, 3), 3)):
    torch.manual_seed(0)
    layer = TTLinear(*modes, dtype=dtype)
    nn.init.normal_(layer.bias)
    return layer


@HALVES
def test_half_precision_in_and_out(dtype):
    layer = layer_of(torch.float32)
    exact = copy.deepcopy(layer)
    layer = layer.to(dtype)
    exact.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    x = torch.randn(6, 28).to(dtype).requires_grad_()
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, exact(x.float()).to(dtype), rtol=0, atol=0)
    y.float().square().sum().backward()
    assert {x.grad.dtype, *(p.grad.dtype for p in layer.parameters())} == {dtype}
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), y)


@HALVES
@pytest.mark.parametrize("lead", [(37,), (5, 9), (1,), (0,)], ids=str)
def test_blocks_of_half_precision_give_what_the_whole_gives(dtype, lead, monkeypatch):
    """Four rows at a time. Sums over rows are made in float32: one rounding to half at the end."""
    monkeypatch.setattr(host, "BLOCK", 4 * 4 * (28 + 15))
    layer = layer_of(dtype)
    exact = layer_of(torch.float32)
    exact.load_state_dict({k: v.float() for k, v in layer.state_dict().items()})
    x = torch.randn(*lead, 28).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, whole = layer(x), exact(wide)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), whole, rtol=unit, atol=1e-5)
    gy = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, *layer.cores], gy)
    expected = torch.autograd.grad(whole, [wide, *exact.cores], gy.float())
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, rtol=unit, atol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("gradients", [False, True])
def test_half_precision_is_never_converted_as_a_whole(gradients):
    """32768 x 1024 rows are 64 MiB in bfloat16 and would be 128 MiB in float32."""
    layer = layer_of(torch.bfloat16, ((32, 32), (32, 32), 2))
    x = torch.randn(2**15, 1024).bfloat16()
    gy = torch.randn(2**15, 1024).bfloat16()
    cores = [g.detach() for g in layer.cores]

    def call(count):
        if gradients:
            return host.run_backward(x[:count], cores, gy[:count])
        return host.run(x[:count], cores, layer.bias)

    call(2048)  # kernels are compiled and loaded
    assert peak_bytes(lambda: call(None)) <= 2**26 + 2**25  # the result, and half of x


def peak_bytes(call):
    """By how much resident memory rises during a call, at its peak."""
    status = Path("/proc/self/status")

    def read(key):
        line = next(s for s in status.read_text("utf-8").splitlines() if s.startswith(key))
        return int(line.split()[1]) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak starts again from here
    except OSError:
        pytest.skip("this system does not reset the peak")
    before = read("VmRSS")
    kept = call()
    peak = read("VmHWM")
    del kept
    return peak - before


@HALVES
def test_autocast_gives_the_output_in_its_dtype_and_gradients_in_that_of_the_parameters(dtype):
    layer = layer_of(torch.float32)
    x = torch.randn(6, 28)
    with torch.autocast("cpu", dtype):
        y = layer(x)
        assert y.dtype == dtype
        assert layer(x.to(dtype)).dtype == dtype
        assert layer_of(torch.float64)(x.double()).dtype == torch.float64  # as torch.nn.Linear
    torch.testing.assert_close(y, layer(x).to(dtype))
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(compiled(x), y)


def test_autocast_does_not_reach_the_products_inside(monkeypatch):
    """Nor where torch's own compute it: one rounding, at the end, and float32 within a graph."""
    layer, x = layer_of(torch.float32), torch.randn(6, 28)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        torch.testing.assert_close(torch.func.vmap(layer)(x), expected)
        monkeypatch.setattr(ops, "_on_cpu", lambda *tensors: False)  # as on another device
        operands = (x.requires_grad_(), *layer.cores)
        y = torch.ops.ttcore.fc(x, operands[1:], None)
        found = torch.autograd.grad(y, operands, torch.ones_like(y))
    assert {a.dtype for a in (y, *found)} == {torch.float32}
    exact = torch.autograd.grad(layer(x), operands, torch.ones_like(y))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("x_dtype", "dtype"),
    [
        (torch.bfloat16, torch.complex64),
        (torch.float16, torch.complex64),
        (torch.float32, torch.complex64),
        (torch.complex64, torch.complex64),
        (torch.complex64, torch.float32),
    ],
    ids=str,
)
def test_imaginary_parts_are_kept(x_dtype, dtype, autocast):
    """Of half-precise vectors and complex cores, too, and in a graph."""
    torch.manual_seed(0)
    cores = [torch.randn(1, 5, 4, 3, dtype=dtype), torch.randn(3, 3, 7, 1, dtype=dtype)]
    x = torch.randn(6, 28, dtype=x_dtype)
    expected = torch.promote_types(x_dtype, dtype)
    weight = torch.einsum("amnb,bpqc->ampnqc", *cores).reshape(15, 28).to(expected)
    torch._dynamo.reset()
    compiled = torch.compile(tt_linear, fullgraph=True, backend="aot_eager")
    for run in (tt_linear, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = run(x, cores)
        assert y.dtype == expected
        torch.testing.assert_close(y, x.to(expected) @ weight.T, rtol=1e-4, atol=1e-4)


def test_a_half_precise_vector_among_complex_cores_gets_a_real_gradient():
    torch.manual_seed(0)
    cores = [torch.randn(1, 5, 4, 3) + 1j, torch.randn(3, 3, 7, 1) - 1j]
    x = torch.randn(6, 28).bfloat16().requires_grad_()
    wide = x.detach().float().requires_grad_()
    for run in (x, wide):
        tt_linear(run, cores).abs().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), wide.grad, rtol=2**-7, atol=1e-4)


def test_wrong_shapes_in_half_precision_are_told_as_they_are(monkeypatch):
    monkeypatch.setattr(host, "BLOCK", 1)
    with pytest.raises(ValueError, match=r"\(9, 27\).*28"):
        layer_of(torch.bfloat16)(torch.ones(9, 27, dtype=torch.bfloat16))
    assert np.isfinite(layer_of(torch.float16)(torch.ones(9, 28).half()).detach().numpy()).all()
