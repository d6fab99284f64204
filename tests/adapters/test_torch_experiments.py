"""`bench/experiments`: networks of the published sizes, and training that can be stopped."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the experiments need torch")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
pytest.importorskip("tqdm", reason="training shows a bar")

FOLDER = Path(__file__).parents[2] / "bench" / "experiments"
sys.path.insert(0, str(FOLDER))

import images  # noqa: E402
import networks  # noqa: E402
from torch import nn  # noqa: E402
from training import Batches, Recipe, fit, test  # noqa: E402

test.__test__ = False  # it tests a network

RECIPE = Recipe("adam", 3e-3, "cosine", batch=100, steps=24, every=5)


@pytest.mark.parametrize(
    ("net", "total", "cores"),
    [
        (lambda: networks.mnist((32, 32), 8), 16384 + 1024 + 10250, 16384),
        (lambda: networks.mnist((4, 8, 8, 4), 8), 8448 + 1024 + 10250, 8448),
        (lambda: networks.mnist((4,) * 5, 8), 3328 + 1024 + 10250, 3328),
        (lambda: networks.mnist((2, 2, 8, 8, 2, 2), 8), 8768 + 1024 + 10250, 8768),
        (lambda: networks.mnist((2,) * 10, 8), 2112 + 1024 + 10250, 2112),
        (lambda: networks.mnist(None, 8), 1025 * 1024 + 10250, 0),
        (networks.hashednet, 12_602, 12_602 - 1024 - 10),
        (lambda: networks.t3f(4), 7_985, 1_725 - 625),
        (lambda: networks.t3f(16), 21_845, 21_845 - 6_260 - 625),
        (lambda: networks.t3f(None), 496_885, 0),
        (lambda: networks.cifar(6, 10), 20_100 + 2 * (46_656 + 4096) + 40_970, 20_100),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(net, total, cores):
    assert networks.parameters(net()) == {"all": total, "cores": cores}


@pytest.mark.parametrize(
    ("width", "rank", "cores"), [(8, 2, 1_264), (8, 3, 2_664), (8, 10, 26_800), (7, 10, 23_450)]
)
def test_wide_layers_have_the_weights_of_tensornet(width, rank, cores):
    with torch.device("meta"):
        assert networks.parameters(networks.cifar(width, rank))["cores"] == cores


def test_a_compressed_network_computes_what_the_dense_one_does_at_full_rank():
    dense = networks.t3f(None)
    x = torch.randn(5, 784)
    torch.testing.assert_close(networks.compressed(dense, 700)(x), dense(x), rtol=1e-4, atol=1e-4)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ),
]


@pytest.fixture(scope="module", params=DEVICES)
def batches(request):
    return batches_on(request.param)


def batches_on(device):
    return Batches(images.mnist(None).padded(32), RECIPE, whiten=False, device=device)


def net_of(seed):
    torch.manual_seed(seed)
    hidden = networks.mnist((4, 8, 8, 4), 2)
    return nn.Sequential(*hidden[:2], nn.BatchNorm1d(1024), nn.Dropout(0.3), hidden[2])


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_run_in_pieces_gives_the_numbers_of_one_in_one_go(tmp_path, batches, optimiser):
    recipe = dataclasses.replace(RECIPE, optimiser=optimiser)
    whole, pieces = net_of(0), net_of(0)
    expected = fit(whole, batches, recipe, tmp_path / "whole.pt")
    fit(pieces, batches, recipe, tmp_path / "pieces.pt", until=3)
    for until in (5, 16, None):  # at a test, within an epoch, and to the end
        torch.rand(7)  # what else a process does
        pieces = net_of(until or 99)
        found = fit(pieces, batches, recipe, tmp_path / "pieces.pt", until=until)
    assert found.history == expected.history
    assert [point["step"] for point in found.history] == [5, 10, 15, 20, 24]
    for name, value in whole.state_dict().items():
        assert value.device.type == batches.device.type
        assert torch.equal(value, pieces.state_dict()[name]), name
    assert len(found.times) == 24


def test_a_run_learns_and_its_error_is_counted(tmp_path, batches):
    recipe = dataclasses.replace(RECIPE, rate=0.02, steps=80, every=80)
    net = net_of(1).to(batches.device)
    assert test(net, batches)["error"] > 70
    error = fit(net, batches, recipe, tmp_path / "net.pt").history[-1]["error"]
    x = torch.from_numpy(images.mnist(None).padded(32).x_test.reshape(360, -1))
    mean = batches.x.float().mean(dim=0)
    answers = net.eval()((x.to(mean) - mean) / 255).argmax(dim=1)
    assert error == pytest.approx(100 * (answers != batches.y_test).float().mean().item())
    assert error < 10


@pytest.mark.parametrize("change", [("cpu", "cuda"), ("cuda", "cpu")], ids=" to ".join)
def test_a_run_goes_on_on_another_device(tmp_path, change):
    """Rounding apart with the same numbers, where there is no dropout."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    nets = [networks.mnist((4, 8, 8, 4), 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    expected = fit(nets[0], batches_on("cpu"), RECIPE, tmp_path / "whole.pt")
    fit(nets[1], batches_on(change[0]), RECIPE, tmp_path / "moved.pt", until=7)
    found = fit(nets[1], batches_on(change[1]), RECIPE, tmp_path / "moved.pt")
    assert len(found.times) == 24
    for a, b in zip(found.history, expected.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


def test_graphs_of_the_gpu_take_the_same_steps(tmp_path):
    """Batch normalisation's state included; with dropout, they can be stopped and go on."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batches = batches_on("cuda")
    histories = []
    for graphs in (False, True):
        net = net_of(0)
        del net[3]  # dropout
        histories.append(
            fit(net, batches, RECIPE, tmp_path / f"{graphs}.pt", graphs=graphs).history
        )
    for a, b in zip(*histories, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-2)
    found = fit(net_of(0), batches, RECIPE, tmp_path / "whole.pt", graphs=True)
    fit(net_of(0), batches, RECIPE, tmp_path / "pieces.pt", until=7, graphs=True)
    again = fit(net_of(9), batches, RECIPE, tmp_path / "pieces.pt", graphs=True)
    assert again.history == found.history


def test_the_order_of_images_is_the_same_on_every_device(batches):
    for step in (0, 14, 30):
        for a, b in zip(batches.at(step), batches_on("cpu").at(step), strict=True):
            assert a.device.type == batches.device.type
            torch.testing.assert_close(a.cpu(), b)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, batches):
    recipe = dataclasses.replace(RECIPE, optimiser="sgd", rate=1e30)
    with pytest.raises(SystemExit, match=r"the loss is (nan|inf) at step [1-9]"):
        fit(net_of(0), batches, recipe, tmp_path / "net.pt")


def test_a_gpu_that_is_not_there_is_refused(command, monkeypatch):
    with pytest.raises(SystemExit, match="none on the cpu; give --device cuda"):
        command("t3f --graphs", "none")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        command("t3f --device cuda", "none")


def test_other_options_than_the_checkpoint_has_are_refused(tmp_path, batches):
    fit(net_of(0), batches, RECIPE, tmp_path / "net.pt", until=1)
    other = dataclasses.replace(RECIPE, rate=1.0)
    with pytest.raises(SystemExit, match=r"net\.pt was begun with \{'rate': 0\.003\}"):
        fit(net_of(0), batches, other, tmp_path / "net.pt")


def test_the_rate_follows_its_schedule():
    stairs = Recipe("sgd", 0.06, "stairs", batch=100, steps=40_000, every=500)
    assert [stairs.rate_at(step) for step in (0, 1999, 2000, 4000)] == pytest.approx(
        [0.06, 0.06, 0.06 * 0.64, 0.06 * 0.64**2]
    )
    cosine = dataclasses.replace(stairs, schedule="cosine", steps=1000)
    assert cosine.rate_at(0) == pytest.approx(0.06 / 20, rel=1e-3)
    assert cosine.rate_at(500) == pytest.approx(0.03)
    assert cosine.rate_at(999) < 1e-5
    assert dataclasses.replace(stairs, schedule="constant").rate_at(9999) == 0.06


def test_each_pixel_is_whitened_by_the_training_set():
    data = images.cifar10(None)
    ready = Batches(data, dataclasses.replace(RECIPE, batch=1437), whiten=True).at(0)[0]
    varies = data.x.reshape(1437, -1).std(axis=0) > 1
    torch.testing.assert_close(ready.mean(dim=0), torch.zeros(3072), rtol=0, atol=1e-4)
    deviations = ready.std(dim=0, correction=0)[torch.from_numpy(varies)]
    torch.testing.assert_close(deviations, torch.ones(len(deviations)), rtol=1e-4, atol=0)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command line, and return a record."""
    monkeypatch.chdir(tmp_path)

    def call(text, name, out="made"):
        main = runpy.run_path(str(FOLDER / "__main__.py"))["main"]
        main([*text.split(), "--out", out, "--threads", str(torch.get_num_threads())])
        return json.loads((tmp_path / out / f"{name}.json").read_text())

    return call


def test_a_command_is_stopped_and_goes_on(command, tmp_path):
    text = "mnist --shape 4x8x8x4 --rank 2 --epochs 2 --seed 3"
    name = "mnist-4x8x8x4-r2-seed3-digits"
    first = command(f"{text} --steps 20", name)
    assert (first["step"], first["finished"], len(first["history"])) == (20, False, 1)
    second = command(text, name)
    assert (second["step"], second["finished"], len(second["history"])) == (28, True, 2)
    assert second["history"][0] == first["history"][0]
    assert second["result"]["error"] == second["history"][-1]["error"]
    assert second["parameters"] == {"all": 11_274 + 576, "cores": 576}
    assert second["recipe"]["seed"] == 3
    assert "digits" in second["data"]
    assert set(second["step_ms"]) == {"forward", "backward", "update", "step"}
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {f"{name}.{suffix}" for suffix in ("json", "png", "pt")}
    assert str(tmp_path) not in json.dumps(second)


def test_a_short_sitting_makes_one_step(command, tmp_path):
    record = command("t3f --minutes 0", "t3f-r4-digits")
    assert (record["step"], record["history"], record["finished"]) == (1, [], False)
    assert command("t3f --minutes 0", "t3f-r4-digits")["step"] == 2
    assert not (tmp_path / "made" / "t3f-r4-digits.png").exists()  # nothing to draw yet


def test_a_seed_gives_the_same_numbers_again(command):
    def history(seed, out):
        text = f"mnist --shape 32x32 --rank 1 --epochs 1 --seed {seed}"
        return command(text, f"mnist-32x32-r1-seed{seed}-digits", out)["history"]

    assert history(1, "one") == history(1, "two") != history(2, "two")


def test_compression_reports_before_and_after(command):
    record = command("compress --rank 3 --epochs 1", "compress-r3-digits")
    assert record["before"]["dense"]["error"] < record["before"]["cut"]["error"]
    assert record["finished"]


def test_shapes_must_fit_the_pixels(command, capsys):
    with pytest.raises(SystemExit):
        command("mnist --shape 4x8x8", "none")
    assert "32 x 32 pixels need 1024" in capsys.readouterr().err
