"""Export to LoRA: stock PEFT computes the same function from the folder."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft import convert_to_lora as peft_convert_to_lora
from transformers import RobertaConfig, RobertaForSequenceClassification

import ttlib_peft
from tests.peft.tiny import MODELS, bert, gpt2, shake, tokens
from ttlib.errors import ShapeError
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

SCHEMES = ["residual", "zero", "gaussian", "paper-mean"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_exported_lora_is_the_same_function(name, scheme, tmp_path):
    make, task = MODELS[name]
    config = LorettaRepConfig(r=8, tensor_rank=5, init_weights=scheme, task_type=task, train_norms=True)
    model = shake(get_peft_model(make(torch.float64), config)).eval()
    ttlib_peft.save_as_lora(model, tmp_path / "lora")
    lora = PeftModel.from_pretrained(make(torch.float64), tmp_path / "lora").eval()
    assert type(lora.peft_config["default"]) is LoraConfig
    torch.testing.assert_close(lora(tokens()).logits, model(tokens()).logits, rtol=1e-12, atol=1e-13)
    exported = lora.peft_config["default"]
    assert exported.r == exported.lora_alpha == {"residual": 10, "paper-mean": 6}.get(scheme, 5)


def test_layers_of_different_ranks_are_padded_to_one(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.Linear(12, 3)).double()
    model = get_peft_model(net, LorettaRepConfig(r=8, tensor_rank=5, init_weights="zero", target_modules=["0", "1"]))
    shake(model)
    config, weights = ttlib_peft.convert_to_lora(model)
    assert config.r == 5
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {5}
    ttlib_peft.save_as_lora(model, tmp_path)
    fresh = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.Linear(12, 3)).double()
    fresh.load_state_dict(
        {name.replace("base_layer.", ""): p for name, p in net.state_dict().items() if "loretta" not in name}
    )
    lora = PeftModel.from_pretrained(fresh, tmp_path)
    x = torch.randn(4, 16, dtype=torch.float64)
    torch.testing.assert_close(lora(x), model(x))


def test_pefts_own_conversion_agrees():
    """PEFT takes an SVD of the dense update; the exact factors span the same matrix."""
    model = shake(get_peft_model(bert(), LorettaRepConfig(init_weights="zero", target_modules=["query"]))).eval()
    _, ours = ttlib_peft.convert_to_lora(model)
    _, theirs = peft_convert_to_lora(model, rank=5)
    for name in ours:
        if "lora_A" in name:
            pair = name.replace("lora_A", "lora_B")
            torch.testing.assert_close(ours[pair] @ ours[name], theirs[pair] @ theirs[name], rtol=1e-4, atol=1e-5)


def test_the_folder_loads_where_ttlib_is_not_imported(tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "lora"
    bert().save_pretrained(base)
    model = shake(get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS"))).eval()
    ttlib_peft.save_as_lora(model, adapter)
    code = f"""
import sys, torch
from peft import PeftModel
from transformers import BertForSequenceClassification
base = BertForSequenceClassification.from_pretrained({str(base)!r}, num_labels=3)
model = PeftModel.from_pretrained(base, {str(adapter)!r}).eval()
assert not [name for name in sys.modules if name.startswith("ttlib")]
print(model(torch.tensor({tokens().tolist()})).logits.tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    logits = torch.tensor(json.loads(run.stdout))
    torch.testing.assert_close(logits, model(tokens()).logits, rtol=1e-5, atol=1e-6)
    mode = (adapter / "adapter_model.safetensors").stat().st_mode & 0o777
    assert mode == (adapter / "adapter_config.json").stat().st_mode & 0o777
    assert not [path for path in adapter.iterdir() if path.suffix == ".tmp"]


def test_conv1d_is_marked():
    model = get_peft_model(gpt2(), LorettaRepConfig(task_type="CAUSAL_LM"))
    assert ttlib_peft.convert_to_lora(model)[0].fan_in_fan_out


def test_what_cannot_be_converted_says_why():
    adp = get_peft_model(bert(), LorettaAdpConfig(task_type="SEQ_CLS"))
    with pytest.raises(NotImplementedError, match="LorettaAdpLinear is not an update of the weight"):
        ttlib_peft.convert_to_lora(adp)
    with pytest.raises(TypeError, match="'default' is not a LoRETTA_rep adapter.*no adapters"):
        ttlib_peft.convert_to_lora(bert())
    with pytest.raises(TypeError, match="'other' is not.*'default': 'LorettaAdpConfig'"):
        ttlib_peft.convert_to_lora(adp, "other")


def test_an_embedding_is_exported_as_loras_embedding(tmp_path):
    targets = ["word_embeddings", "query"]
    model = shake(get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS", target_modules=targets))).eval()
    ttlib_peft.save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(bert(), tmp_path).eval()
    torch.testing.assert_close(lora(tokens()).logits, model(tokens()).logits, rtol=1e-5, atol=1e-6)


def roberta(dtype=torch.float32):
    """Its classifier has two layers, of which the first can be a tensor train."""
    torch.manual_seed(1)
    config = RobertaConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=50, num_labels=3
    )
    return RobertaForSequenceClassification(config).to(dtype).eval()


@pytest.mark.parametrize("scheme", ["residual", "gaussian", "paper-mean"])
@pytest.mark.parametrize(
    ("make", "tensorized", "saved"),
    [
        (bert, ["pooler.dense"], {"classifier", "score", "bert.pooler.dense"}),
        (bert, ["intermediate.dense", "classifier"], {"classifier", "score"}),
        (roberta, ["classifier.dense"], {"classifier", "score"}),
    ],
)
@pytest.mark.parametrize("task", ["SEQ_CLS", None])
def test_tensorised_modules_are_exported_dense(make, tensorized, saved, scheme, task, tmp_path):
    config = LorettaRepConfig(
        r=4, tensor_rank=3, init_weights=scheme, task_type=task, tensorize_modules=tensorized, target_modules=["query"]
    )
    model = shake(get_peft_model(make(torch.float64), config)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ttlib_peft.save_as_lora(model, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    lora = PeftModel.from_pretrained(make(torch.float64), tmp_path).eval()
    torch.testing.assert_close(lora(tokens()).logits, model(tokens()).logits, rtol=1e-11, atol=1e-12)
    if task is not None:
        assert saved <= set(lora.peft_config["default"].modules_to_save)


def updates(model, adapter_name="default"):
    return {
        name: layer.get_delta_weight(adapter_name).detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_smaller_rank_is_the_best_one_and_says_its_error(name, rank, tmp_path):
    make, task = MODELS[name]
    model = shake(get_peft_model(make(torch.float64), LorettaRepConfig(task_type=task)), 0.5)
    expected, errors = {}, []
    for layer, delta in updates(model).items():
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        expected[layer] = u[:, :rank] * s[:rank] @ vt[:rank]
        errors.append(float((delta - expected[layer]).norm() / delta.norm()))
    with pytest.warns(RuntimeWarning, match=f"rank={rank} cuts") as caught:
        ttlib_peft.save_as_lora(model, tmp_path, rank=rank)
    assert f"{max(errors):.1e}" in str(caught[0].message)
    lora = PeftModel.from_pretrained(make(torch.float64), tmp_path)
    assert lora.peft_config["default"].r == rank
    found = updates(lora)
    assert found.keys() == expected.keys()
    for layer, delta in found.items():
        torch.testing.assert_close(delta, expected[layer], rtol=1e-9, atol=1e-11)


def test_a_rank_that_holds_all_cuts_nothing():
    model = shake(get_peft_model(bert(torch.float64), LorettaRepConfig(task_type="SEQ_CLS")))
    exact = ttlib_peft.convert_to_lora(model)
    roomy = ttlib_peft.convert_to_lora(model, rank=10)
    assert roomy[0].r == 10
    assert all(torch.equal(tensor, exact[1][name]) for name, tensor in roomy[1].items())
    untrained = get_peft_model(bert(torch.float64), LorettaRepConfig(task_type="SEQ_CLS"))
    assert ttlib_peft.convert_to_lora(untrained, rank=1)[0].r == 1  # no warning: the update is zero
    with pytest.raises(ShapeError, match="rank must be"):
        ttlib_peft.convert_to_lora(model, rank=0)


@pytest.mark.parametrize(("ours", "theirs"), [("loretta_only", "lora_only"), ("all", "all"), ("none", "none")])
def test_trained_biases_come_along(ours, theirs, tmp_path):
    model = shake(get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS", bias=ours))).eval()
    ttlib_peft.save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(bert(), tmp_path).eval()
    assert lora.peft_config["default"].bias == theirs
    torch.testing.assert_close(lora(tokens()).logits, model(tokens()).logits, rtol=1e-5, atol=1e-6)


def test_adapters_are_exported_one_by_one(tmp_path):
    model = get_peft_model(bert(torch.float64), LorettaRepConfig(init_weights="zero", r=4), adapter_name="de")
    model.add_adapter("fr", LorettaRepConfig(tensor_rank=3, target_modules=["key"], modules_to_save=["classifier"]))
    for name, seed in (("de", 0), ("fr", 1)):
        model.set_adapter(name)
        shake(model, 0.1 + seed)
    model.eval()
    for name in ("de", "fr"):
        model.set_adapter(name)
        ttlib_peft.save_as_lora(model, tmp_path / name, name)
        lora = PeftModel.from_pretrained(bert(torch.float64), tmp_path / name).eval()
        torch.testing.assert_close(lora(tokens()).logits, model(tokens()).logits, rtol=1e-11, atol=1e-12)
    assert updates(lora).keys() == {f"base_model.model.bert.encoder.layer.{i}.attention.self.key" for i in range(2)}


def test_what_servers_cannot_load_is_said(caplog, tmp_path):
    ttlib_peft.save_as_lora(get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS")), tmp_path / "head")
    assert "holds 2 tensors that are no LoRA factors (base_model.model.classifier.bias" in caplog.text
    caplog.clear()
    ttlib_peft.save_as_lora(get_peft_model(gpt2(), LorettaRepConfig(task_type="CAUSAL_LM")), tmp_path / "plain")
    assert "LoRA factors" not in caplog.text
