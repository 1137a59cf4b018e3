"""Export to LoRA: stock PEFT computes the same function from the folder."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft import convert_to_lora as peft_convert_to_lora

import ttlib_peft
from tests.peft.tiny import MODELS, bert, gpt2, shake, tokens
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
