"""Registration: three entries a method beside PEFT's own, in whatever order things are imported, and never over another's."""

import pickle
import subprocess
import sys

import peft
import pytest
import torch
from peft import PeftType, get_peft_model
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from torch import nn

from tests.peft.tiny import bert, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig
from ttlib_peft.compat import resolve_quantization_backend
from ttlib_peft.config import TensorPeftType
from ttlib_peft.methods.loretta_adp import LorettaAdpModel
from ttlib_peft.methods.loretta_rep import LorettaRepModel
from ttlib_peft.register import register, register_all

REGISTRIES = {
    "config": PEFT_TYPE_TO_CONFIG_MAPPING,
    "tuner": PEFT_TYPE_TO_TUNER_MAPPING,
    "prefix": PEFT_TYPE_TO_PREFIX_MAPPING,
}
METHODS = {
    "LORETTA_REP": (LorettaRepConfig, LorettaRepModel, "loretta_rep_"),
    "LORETTA_ADP": (LorettaAdpConfig, LorettaAdpModel, "loretta_adp_"),
}
RELEASE = tuple(int(part) for part in peft.__version__.split(".")[:2])


def entries():
    return {name: dict(registry) for name, registry in REGISTRIES.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_found_by_its_plain_name_as_files_hold_it(method):
    config, tuner, prefix = METHODS[method]
    assert PEFT_TYPE_TO_CONFIG_MAPPING[method] is config
    assert PEFT_TYPE_TO_TUNER_MAPPING[method] is tuner
    assert PEFT_TYPE_TO_PREFIX_MAPPING[method] == prefix == method.lower() + "_"  # transformers derives it itself
    assert peft.get_peft_config({"peft_type": method}).peft_type == method


def test_registering_again_does_nothing():
    before, listed = entries(), list(PeftType)
    register_all()
    assert entries() == before
    assert list(PeftType) == listed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("registry", "foreign"), [("config", peft.LoraConfig), ("tuner", peft.LoraModel)])
def test_the_method_of_another_package_is_never_overwritten(monkeypatch, method, registry, foreign):
    """As when a later PEFT brings a LORETTA_REP of its own."""
    for name in METHODS:
        for entered in REGISTRIES.values():
            monkeypatch.delitem(entered, name)
    monkeypatch.setitem(REGISTRIES[registry], method, foreign)
    before = entries()
    with pytest.raises(KeyError, match=f"PEFT already has a method {method}, from peft.tuners.lora.*use that one"):
        register_all()
    assert entries() == before  # nor is half of ours entered


def test_a_prefix_of_another_package_is_refused(monkeypatch):
    monkeypatch.delitem(PEFT_TYPE_TO_PREFIX_MAPPING, "LORETTA_ADP")
    monkeypatch.setitem(PEFT_TYPE_TO_PREFIX_MAPPING, "ADP", "loretta_adp_")
    before = entries()
    with pytest.raises(KeyError, match="a method ADP, whose parameters are called loretta_adp_… too"):
        register_all()
    assert entries() == before


def test_a_class_of_another_name_cannot_take_the_place_of_ours():
    class Other(LorettaRepConfig):
        pass

    with pytest.raises(KeyError, match=r"LORETTA_REP, from ttlib_peft\.methods\.loretta_rep"):
        register(TensorPeftType.LORETTA_REP, Other, LorettaRepModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"] is LorettaRepConfig


def test_pefts_enum_keeps_its_members():
    assert not set(METHODS) & set(PeftType.__members__)
    assert list(PeftType)[: len(PeftType)] == list(PeftType.__members__.values())
    assert PeftType("LORA") is PeftType.LORA is PeftType["LORA"]
    assert pickle.loads(pickle.dumps(PeftType.LORA)) is PeftType.LORA  # noqa: S301
    with pytest.raises(ValueError, match="LORETTA_REP"):
        PeftType("LORETTA_REP")


SECOND_IMPORT = """
import sys
{imports}
from peft import mapping
from peft.tuners.lora import LoraConfig

first = mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"]
for name in [name for name in sys.modules if name.partition(".")[0] == "ttlib_peft"]:
    del sys.modules[name]
import ttlib_peft  # as a notebook does that reloads what it edits

second = mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"]
assert second is ttlib_peft.LorettaRepConfig is not first
assert sum(name == "LORETTA_REP" for name in mapping.PEFT_TYPE_TO_TUNER_MAPPING) == 1

for name in [name for name in sys.modules if name.partition(".")[0] == "ttlib_peft"]:
    del sys.modules[name]
mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"] = LoraConfig
try:
    import ttlib_peft
except KeyError as error:
    print(error)
assert "ttlib_peft" not in sys.modules
assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"] is LoraConfig
"""


@pytest.mark.parametrize("imports", ["import peft, ttlib_peft", "import ttlib_peft, peft"])
def test_imported_before_or_after_peft_and_again(imports):
    script = SECOND_IMPORT.format(imports=imports)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "PEFT already has a method LORETTA_REP, from peft.tuners.lora.config" in ran.stdout


@pytest.mark.skipif(RELEASE >= (0, 21), reason="this PEFT saves the biases")
@pytest.mark.parametrize("config", [LorettaRepConfig, LorettaAdpConfig])
@pytest.mark.parametrize("bias", ["all", "loretta_only"])
def test_biases_that_would_not_be_saved_are_refused(config, bias):
    with pytest.raises(NotImplementedError, match=rf"bias='{bias}'.*peft>=0.21"):
        get_peft_model(bert(), config(task_type="SEQ_CLS", bias=bias))


class RoundedLinear(nn.Module):
    """A linear layer that keeps its weight in eight bits, as quantising packages do."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.abs().amax().detach() / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return x @ (self.weight * self.scale).T


@pytest.mark.parametrize("layer", [nn.Linear(4, 5), nn.Embedding(4, 5), nn.Linear(4, 5, device="meta"), nn.Dropout()])
def test_an_ordinary_layer_is_not_taken_for_a_quantised_one(layer):
    assert resolve_quantization_backend(layer) is None


@pytest.mark.skipif(RELEASE >= (0, 20), reason="this PEFT has quantisation backends of its own")
def test_a_quantised_base_runs_and_trains_and_refuses_to_be_merged():
    model = bert()
    attention = model.bert.encoder.layer[0].attention.self
    attention.query = RoundedLinear(attention.query)
    expected, weight = model(tokens()).logits, attention.query.weight.clone()
    model = get_peft_model(model, LorettaRepConfig(target_modules=["layer.0.attention.self.query"]))
    assert torch.equal(model(tokens()).logits, expected)
    model(tokens()).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert "quantization_backend='RoundedLinear" in repr(model)
    with pytest.raises(TypeError, match="RoundedLinear.*cannot be merged"):
        model.merge_adapter()
    assert torch.equal(attention.query.get_base_layer().weight, weight)
