"""Configurations: what they refuse, what they record, what a round trip keeps."""

import json

import pytest
import torch
from peft import PeftConfig, get_peft_model

import ttlib
from tests.peft.tiny import bert, llama
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig


@pytest.mark.parametrize("config_class", [LorettaRepConfig, LorettaAdpConfig])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tensor_rank": 0}, ttlib.RankError, "got 0"),
        ({"tensor_rank": "5"}, ttlib.RankError, "got '5'"),
        ({"tensor_rank": 2.5}, ttlib.RankError, "got 2.5"),
        ({"tensor_rank": []}, ttlib.RankError, "empty list"),
        ({"tensor_rank": [2, -1]}, ttlib.RankError, "got -1"),
        ({"tensor_shape": [8, 0]}, ttlib.ShapeError, "mode 1 of shape"),
        ({"tensor_shape": {"8by8": [8, 8]}}, ttlib.ShapeError, "like \"768x64\", got '8by8'"),
        ({"tensor_shape": {"0x8": [8]}}, ttlib.ShapeError, "got '0x8'"),
        ({"tensor_shape": {"8x8": [8, 9]}}, ttlib.ShapeError, "holds 72 entries"),
        ({"init_weights": "lora"}, ValueError, "'paper-mean', 'spectral', got 'lora'"),
        ({"init_weights": None}, ValueError, "got None"),
        ({"dropout": 1.0}, ValueError, "dropout must be a number >= 0 and < 1, got 1.0"),
        ({"dropout": "0.1"}, ValueError, "got '0.1'"),
        ({"dropout": float("nan")}, ValueError, "got nan"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
        ({"seed": 1.5}, ValueError, "got 1.5"),
        ({"bias": "some"}, ValueError, "bias must be one of"),
        ({"group_factors": 1}, TypeError, "group_factors must be True or False, got 1"),
        ({"target_modules": ".*", "layers_to_transform": [0]}, ValueError, "layers_to_transform"),
        ({"layers_pattern": "layer"}, ValueError, "layers_pattern needs layers_to_transform"),
    ],
)
def test_bad_values_are_refused_at_construction(config_class, arguments, error, message):
    with pytest.raises(error, match=message):
        config_class(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LorettaRepConfig(r=0), "r must be an integer >= 1, got 0"),
        (lambda: LorettaRepConfig(r="8"), "got '8'"),
        (lambda: LorettaRepConfig(r=True), "got True"),
        (lambda: LorettaRepConfig(alpha=float("inf")), "alpha must be a finite number, got inf"),
        (lambda: LorettaAdpConfig(bottleneck=-4), "bottleneck must be an integer >= 1, got -4"),
        (lambda: LorettaAdpConfig(non_linearity="swish"), "'relu'.*got 'swish'"),
        (lambda: LorettaAdpConfig(placement="after"), "'auto', 'output', 'input', got 'after'"),
        (lambda: LorettaAdpConfig(scaling="1"), "scaling must be a finite number, got '1'"),
    ],
)
def test_bad_values_of_one_method(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_called_lora_alpha():
    """A server that reads adapter_config.json must not take a raw adapter for LoRA."""
    for config in (LorettaRepConfig(), LorettaAdpConfig()):
        assert not [name for name in config.to_dict() if "lora_" in name]


def test_peft_convention_for_init_weights():
    assert LorettaRepConfig(init_weights=True).init_weights == "residual"
    assert LorettaAdpConfig(init_weights=False).init_weights == "gaussian"


def test_the_chosen_shapes_and_the_seed_are_recorded_and_reused(tmp_path):
    """Loading never searches: a later version may propose other shapes."""
    config = LorettaRepConfig(r=4, tensor_rank=3, task_type="CAUSAL_LM")
    model = get_peft_model(llama(), config)
    assert set(config.tensor_shape) == {"48x4", "4x48", "4x24"}  # grouped queries: v_proj is 48 x 24
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["tensor_shape"] == config.tensor_shape
    assert stored["seed"] == config.seed
    assert stored["init_weights"] == "residual"
    assert stored["requires"] == "import ttlib_peft"
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, LorettaRepConfig)
    assert {**loaded.to_dict(), "inference_mode": False} == {**config.to_dict(), "inference_mode": False}


def test_the_papers_shapes_can_be_given_by_size_or_as_one_list():
    for shape in ({"768x8": [8, 8, 12, 8], "8x768": [8, 12, 8, 8]}, [8, 8, 12, 8]):
        net = torch.nn.Sequential(torch.nn.Linear(768, 768))
        model = get_peft_model(net, LorettaRepConfig(r=8, tensor_shape=shape, target_modules=["0"]))
        layer = model.base_model.model[0]
        assert layer.loretta_rep_A["default"].tensor_shape == (8, 8, 12, 8)
        assert layer.loretta_rep_B["default"].split == 1
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1160


def test_a_shape_that_does_not_fit_a_module_is_refused():
    with pytest.raises(ttlib.ShapeError, match="holds 64 entries, a 48 x 8 matrix holds 384"):
        get_peft_model(bert(), LorettaRepConfig(tensor_shape=[8, 8], target_modules=["query"]))


def test_one_list_must_fit_every_module_not_only_the_first():
    config = LorettaRepConfig(r=4, tensor_shape=[4, 12, 4], target_modules=["q_proj", "v_proj"])
    with pytest.raises(ttlib.ShapeError, match="holds 192 entries, a 4 x 24 matrix holds 96"):
        get_peft_model(llama(), config)


def test_unsupported_modules_are_named():
    with pytest.raises(ValueError, match="LayerNorm is not supported: it is a LayerNorm, not one of torch.nn.Linear"):
        get_peft_model(bert(), LorettaRepConfig(target_modules=["LayerNorm"]))
