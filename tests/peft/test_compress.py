"""LoRA as LoRETTA_rep: what is loaded computes what the report says."""

import warnings

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.peft.tiny import MODELS, bert, gpt2, llama, shake, tokens
from ttlib.errors import NonFiniteError, RankError, ShapeError, TTFileError
from ttlib_peft import LorettaRepConfig
from ttlib_peft.compress import compress_lora

warnings_are_fine = pytest.mark.filterwarnings("ignore:the tensor trains need")


def trained(folder, make=bert, dtype=torch.float32, **settings):
    settings = {"r": 4, "lora_alpha": 12, "fan_in_fan_out": make is gpt2, **settings}
    model = shake(get_peft_model(make(dtype), LoraConfig(**settings))).eval()
    model.save_pretrained(folder)
    return model


def updates(model):
    return {
        name: module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@warnings_are_fine
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("bound", [{"tensor_rank": 2}, {"eps": 0.3}, {"eps": 1e-4}, {"budget": 3000}])
def test_the_report_is_the_error_of_the_loaded_update(name, bound, tmp_path):
    make, task = MODELS[name]
    lora = trained(tmp_path / "lora", make, torch.float64, task_type=task)
    small = compress_lora(tmp_path / "lora", **bound)
    small.save(tmp_path / "small")
    loaded = PeftModel.from_pretrained(make(torch.float64), tmp_path / "small")
    assert type(loaded.peft_config["default"]) is LorettaRepConfig
    before, after = updates(lora), updates(loaded)
    assert before.keys() == after.keys()
    for module in small.modules:
        dense, ours = before["base_model.model." + module.name], after["base_model.model." + module.name]
        error = float((ours - dense).norm() / dense.norm())
        assert error == pytest.approx(module.relative_error, rel=1e-3, abs=1e-6)
        assert error <= bound.get("eps", 2)
    assert small.parameters_after <= bound.get("budget", 10**9)
    adapters = [tensor for key, tensor in small.weights.items() if key.endswith(".flat")]
    assert small.parameters_after == sum(tensor.numel() for tensor in adapters)


@warnings_are_fine
@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {"layer.0.attention.self.value": 3}},
        {"target_modules": ["query", "word_embeddings"]},
        {"bias": "lora_only", "target_modules": ["query"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_scalings_patterns_and_embeddings_survive(settings, tmp_path):
    lora = trained(tmp_path / "lora", task_type="SEQ_CLS", **settings)
    compress_lora(tmp_path / "lora", eps=1e-5).save(tmp_path / "small")
    loaded = PeftModel.from_pretrained(bert(), tmp_path / "small").eval()
    torch.testing.assert_close(loaded(tokens()).logits, lora(tokens()).logits, rtol=1e-3, atol=1e-4)


def test_a_larger_result_is_said_and_a_smaller_one_is_not(tmp_path):
    trained(tmp_path, task_type="SEQ_CLS")
    with pytest.warns(UserWarning, match="nothing is won"):
        compress_lora(tmp_path, eps=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = compress_lora(tmp_path, tensor_rank=1)
    assert small.parameters_after < small.parameters_before


def test_an_update_of_zero_stays_zero(tmp_path):
    get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    assert {module.relative_error for module in compress_lora(tmp_path, tensor_rank=2).modules} == {0.0}


def test_bounds_are_checked(tmp_path):
    trained(tmp_path, task_type="SEQ_CLS")
    with pytest.raises(ValueError, match="exactly one of.*none"):
        compress_lora(tmp_path)
    with pytest.raises(ValueError, match="exactly one of.*'eps'"):
        compress_lora(tmp_path, eps=0.1, budget=3)
    with pytest.raises(RankError, match="eps must be"):
        compress_lora(tmp_path, eps=0.0)
    with pytest.raises(RankError, match="budget=3 is below"):
        compress_lora(tmp_path, budget=3)
    with pytest.raises(RankError, match="below what torch.float32 cores can hold"):
        compress_lora(tmp_path, eps=1e-12)


@pytest.mark.parametrize(
    ("settings", "named"), [({"use_dora": True}, "use_dora"), ({"init_lora_weights": "olora"}, "olora")]
)
def test_other_updates_are_refused_by_name(settings, named, tmp_path):
    get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", **settings)).save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match=named):
        compress_lora(tmp_path, tensor_rank=2)


def test_broken_folders_are_refused(tmp_path):
    trained(tmp_path, task_type="SEQ_CLS")
    path = tmp_path / "adapter_model.safetensors"
    whole = load_file(path)
    key = next(key for key in whole if key.endswith("lora_A.weight"))
    for change, error in (
        ({key: whole[key] * float("nan")}, NonFiniteError),
        ({key: whole[key][:1].clone()}, ShapeError),
    ):
        save_file({**whole, **change}, path)
        with pytest.raises(error):
            compress_lora(tmp_path, tensor_rank=2)
    save_file({"head": whole[key]}, path)
    with pytest.raises(TTFileError, match="no lora_A"):
        compress_lora(tmp_path, tensor_rank=2)
    path.write_bytes(b"no tensors")
    with pytest.raises(TTFileError, match="cannot be read"):
        compress_lora(tmp_path, tensor_rank=2)
    path.unlink()
    with pytest.raises(TTFileError, match="no adapter_model"):
        compress_lora(tmp_path, tensor_rank=2)
    get_peft_model(llama(), peft.IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="IA3Config"):
        compress_lora(tmp_path, tensor_rank=2)
