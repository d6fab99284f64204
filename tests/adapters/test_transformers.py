"""`replace_layers` on a small BERT and a small GPT-2, made from a config: nothing is downloaded."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch", reason="the adapter needs torch")
transformers = pytest.importorskip("transformers", reason="the models are those of transformers")

from safetensors.torch import load_file, load_model  # noqa: E402
from torch import nn  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

from ttcore.adapters.torch import TTLinear, rebuild_layers, replace_layers  # noqa: E402
from ttcore.layers.modes import usual_modes  # noqa: E402

WORDS = 101
NOISE = 1e-4


def bert():
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    return transformers.BertForMaskedLM(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=32,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=1,
        eos_token_id=1,
    )
    return transformers.GPT2LMHeadModel(config)


BERT = [
    f"bert.encoder.layer.{k}.{name}"
    for k in (0, 1)
    for name in (
        *(f"attention.self.{which}" for which in ("query", "key", "value")),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    )
] + ["cls.predictions.transform.dense"]
GPT2 = [
    f"transformer.h.{k}.{name}"
    for k in (0, 1)
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]
MODELS = {
    "bert": (bert, BERT, "cls.predictions.decoder", "bert.embeddings.word_embeddings"),
    "gpt2": (gpt2, GPT2, "lm_head", "transformer.wte"),
}


@pytest.fixture(params=MODELS)
def case(request):
    """Function that makes a model, names of its layers, its tied head, its embedding."""
    return MODELS[request.param]


def trained(make, names):
    """A model whose weights are trains of rank 2 up to noise, in float64, without dropout."""
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for name in names:
            layer = model.get_submodule(name)
            weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
            outs, ins = usual_modes(*weight.shape)
            dense = TTLinear(ins, outs, 2, dtype=torch.float64).to_dense()
            weight.copy_(dense + NOISE * dense.std() * torch.randn_like(dense))
            nn.init.normal_(layer.bias, std=0.1)
    return model


def batch():
    torch.manual_seed(1)
    words = torch.randint(2, WORDS, (3, 12))
    return {"input_ids": words, "labels": words}


def test_layers_are_replaced_and_the_tied_head_is_kept(case):
    make, names, head, embedding = case
    model = trained(make, names)
    old = copy.deepcopy(model)
    report = replace_layers(model, eps=1e-3)
    assert [row.names[0] for row in report.replaced] == names
    assert [row.names[0] for row in report.kept] == [head]
    assert report[head].reason == f"its weight is tied to {embedding}.weight"
    assert model.get_submodule(head).weight is model.get_submodule(embedding).weight
    assert report.before == old.num_parameters()
    assert report.after == model.num_parameters() < 0.7 * report.before
    for name in names:
        dense, new = old.get_submodule(name), model.get_submodule(name)
        weight = dense.weight.T if isinstance(dense, Conv1D) else dense.weight
        x = torch.randn(2, 5, weight.shape[1], dtype=torch.float64)
        moved = torch.linalg.vector_norm(new(x) - dense(x), dim=-1)
        bound = report[name].error * weight.norm() * torch.linalg.vector_norm(x, dim=-1)
        assert (moved <= bound + 1e-12).all()
        assert report[name].error <= 1e-3


def test_the_loss_moves_by_what_the_errors_of_the_report_allow(case):
    """To first order at most by the sum of |gradient| |weight| error; the rest is of second."""
    make, names, _, _ = case
    model = trained(make, names)
    loss = model(**batch()).loss
    loss.backward()
    weights = {name: model.get_submodule(name).weight for name in names}
    sizes = {name: (w.norm() * w.grad.norm()).item() for name, w in weights.items()}
    logits = model(**batch()).logits
    report = replace_layers(model, eps=1e-3)
    new = model(**batch())
    bound = sum(size * report[name].error for name, size in sizes.items())
    assert abs(new.loss.item() - loss.item()) <= 1.1 * bound
    assert 0 < torch.dist(new.logits, logits) < 100 * NOISE * logits.norm()


def test_the_model_computes_what_its_dense_twin_does(case):
    """The same model, with the weights that the cores stand for."""
    make, names, _, _ = case
    model = trained(make, names)
    twin = copy.deepcopy(model)
    replace_layers(model, ratio=8)
    with torch.no_grad():
        for name in names:
            layer = twin.get_submodule(name)
            dense = model.get_submodule(name).to_dense()
            layer.weight.copy_(dense.T if isinstance(layer, Conv1D) else dense)
    exact, found = twin(**batch()), model(**batch())
    torch.testing.assert_close(found.logits, exact.logits, rtol=1e-9, atol=1e-9)
    exact.loss.backward()
    found.loss.backward()
    old = dict(twin.named_parameters())
    same = [name for name, _ in model.named_parameters() if name in old]
    assert len(same) > len(names)  # biases, embeddings, norms
    for name in same:
        torch.testing.assert_close(
            model.get_parameter(name).grad, old[name].grad, rtol=1e-7, atol=1e-9
        )


def test_steps_of_training_lower_the_loss_and_reach_the_cores(case):
    make, names, head, embedding = case
    model = trained(make, names).float().train()
    replace_layers(model, rank=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name in names:
        assert all(core.grad.any() for core in model.get_submodule(name).cores)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert {name for name in before if ".cores." in name} <= set(moved)
    assert model.get_submodule(head).weight is model.get_submodule(embedding).weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_saved_is_loaded_into_a_new_model(case, dtype, tmp_path):
    make, names, head, embedding = case
    model = trained(make, names).to(dtype)
    replace_layers(model, eps=1e-2)
    assert all(isinstance(model.get_submodule(name), TTLinear) for name in names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no dense weight is built, nothing is left out
        model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    new = type(model)(type(model.config).from_pretrained(tmp_path)).to(dtype).eval()
    assert rebuild_layers(new, load_file(file)) == tuple(names)
    load_model(new, file)  # strict, and knows of weights that are tied
    assert torch.equal(new(**batch()).logits, model(**batch()).logits)
    assert new.get_submodule(head).weight is new.get_submodule(embedding).weight
    size = file.stat().st_size
    assert size < 1.3 * model.num_parameters() * dtype.itemsize  # and names, for a small model


def test_gpt2_generates_with_its_cache():
    model = trained(gpt2, GPT2)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    words = batch()["input_ids"][:, :4]
    expected = model.generate(words, **options)
    replace_layers(model, eps=1e-3)
    assert torch.equal(model.generate(words, **options), expected)


def test_conv1d_is_taken_over_without_transposing_by_hand():
    torch.manual_seed(0)
    layer = Conv1D(48, 64)
    nn.init.normal_(layer.bias)
    new = TTLinear.from_dense(layer, (8, 8), (8, 6))
    x = torch.randn(2, 3, 64)
    torch.testing.assert_close(new(x), layer(x), rtol=1e-4, atol=1e-5)  # float32, full ranks

    class Other(Conv1D):
        pass

    report = replace_layers(nn.ModuleDict({"fc": Other(64, 64)}), rank=2)
    assert "Other, whose weight others may read" in report["fc"].reason
