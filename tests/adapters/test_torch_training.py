"""`TTLinear` in training: processes, workers, scaled gradients, compiled steps."""

import copy
import os
import sys
import warnings

import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")

import torch.multiprocessing as mp  # noqa: E402
from torch import distributed, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from ttcore.adapters.torch import TTLinear  # noqa: E402

BIG = ((8, 8, 8), (8, 8, 8), 16)  # at 64 rows the compiled kernels serve it, with all threads


def layer_of(modes=((4, 7), (5, 3), 3), dtype=torch.float32):
    torch.manual_seed(0)
    layer = TTLinear(*modes, dtype=dtype)
    nn.init.normal_(layer.bias)
    return layer


def _train_one_step(rank, address, whole, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(layer_of(dtype=torch.float64))
    half = whole[5 * rank : 5 * (rank + 1)]
    model(half).square().mean().backward()
    gradients = [p.grad for p in model.parameters()]
    torch.save(gradients, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without it")
def test_two_processes_have_the_gradients_of_one_on_the_whole_batch(tmp_path):
    x = torch.randn(10, 28, dtype=torch.float64)
    mp.spawn(_train_one_step, ((tmp_path / "meeting").as_uri(), x, tmp_path), nprocs=2)
    layer = layer_of(dtype=torch.float64)
    layer(x).square().mean().backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for a, p in zip(found, layer.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad, rtol=1e-12, atol=1e-12)


class Features(Dataset):
    """What a frozen layer makes of random rows, with a gradient step for good measure."""

    def __init__(self, layer, rows):
        self.layer, self.rows = layer, rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        y = self.layer(self.rows[index])
        (gx,) = torch.autograd.grad(y.sum(), self.rows, allow_unused=True)
        return os.getpid(), y.detach(), gx[index]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader_call_the_layer(method):
    """Forked ones too, after the parent's threads have run."""
    if method not in mp.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    layer = layer_of(BIG)
    rows = torch.randn(4, 64, 512, requires_grad=True)
    y = layer(rows)
    (gx,) = torch.autograd.grad(y.sum(), rows)
    data = Features(layer, rows.detach().requires_grad_())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)  # of Python 3.12
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method)
        found = list(loader)
    assert len({pid for pid, _, _ in found} | {os.getpid()}) == 3
    for k, (_, a, b) in enumerate(found):
        torch.testing.assert_close(a, y[k], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(b, gx[k], rtol=1e-5, atol=1e-5)


def test_scaled_gradients_are_unscaled_and_a_step_with_infinity_is_left_out():
    layer, plain = layer_of(), layer_of()
    x = torch.randn(6, 28)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (layer, plain)]
    with torch.autocast("cpu", torch.bfloat16):
        loss, same = (net(x).float().square().mean() for net in (layer, plain))
    same.backward()
    scaler.scale(loss).backward()
    scaler.step(optimizers[0])
    scaler.update()
    optimizers[1].step()
    for a, b in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)  # a power of two changes no digit
    before = copy.deepcopy(layer.state_dict())
    optimizers[0].zero_grad()
    poisoned = x.clone()
    poisoned[2, 3] = torch.inf
    with torch.autocast("cpu", torch.bfloat16):
        loss = layer(poisoned).float().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizers[0])
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch itself uses it
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_takes_the_steps_of_eager_training(backend):
    if backend == "inductor" and sys.platform == "win32":
        pytest.skip("needs a C++ compiler")
    torch._dynamo.reset()
    nets = [
        nn.Sequential(layer_of(dtype=torch.float64), nn.ReLU(), nn.Linear(15, 2).double())
        for _ in range(2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    calls = [torch.compile(nets[0], fullgraph=True, backend=backend), nets[1]]
    for net, call in zip(nets, calls, strict=True):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # Adam would not see a factor
        for _ in range(5):
            optimizer.zero_grad()
            call(torch.randn(8, 28, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_add_up_over_calls_and_checkpoints():
    from torch.utils.checkpoint import checkpoint

    layer = layer_of(dtype=torch.float64)
    x = torch.randn(6, 28, dtype=torch.float64)
    layer(x).square().sum().backward()
    expected = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    for part in x.split(2):
        checkpoint(layer, part, use_reentrant=False).square().sum().backward()
    for p, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_parameters_changed_after_the_forward_pass_are_noticed():
    layer = layer_of()
    y = layer(torch.randn(6, 28))
    with torch.no_grad():
        layer.cores[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
