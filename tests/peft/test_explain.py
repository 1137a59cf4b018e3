"""What `explain_targets` says is what `get_peft_model` does."""

import pytest
import torch
from peft import get_peft_model

from tests.peft.tiny import MODELS, bert, llama
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, TTLinear, explain_targets, trainable_parameters

CONFIGS = {
    "rep": lambda: LorettaRepConfig(train_norms=True),
    "adp": lambda: LorettaAdpConfig(bottleneck=16, placement="input"),
    "ranks": lambda: LorettaRepConfig(target_modules="all-linear", r=6, tensor_rank=2),
}


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_it_tells_what_injection_does_and_changes_nothing(make, kind):
    model, config = MODELS[make][0](), CONFIGS[kind]()
    weights = {name: (id(p), p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    settings = config.to_dict()
    told = explain_targets(model, config)
    assert config.to_dict() == settings
    for name, parameter in model.named_parameters():
        assert (id(parameter), parameter.requires_grad) == weights[name][:2]
        assert torch.equal(parameter, weights[name][2])
    adapted = get_peft_model(model, CONFIGS[kind]())
    assert told.trainable == trainable_parameters(adapted)
    hit = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if type(module).__name__.startswith("Loretta") and hasattr(module, "base_layer")
    }
    assert {name for group in told.groups for name in group.modules} == set(hit)
    for group in told.groups:
        for name in group.modules:
            trains = [module for module in hit[name].modules() if isinstance(module, TTLinear)]
            assert group.sizes == (hit[name].in_features, hit[name].out_features)
            assert group.parameters == sum(p.numel() for train in trains for p in train.parameters())
            assert all((train.tensor_shape, train.ranks, train.split) in group.trains for train in trains)


def test_the_rank_is_that_of_the_matrix_and_the_table_says_when_r_is_not():
    config = LorettaRepConfig(r=8, tensor_rank=5, init_weights=False, seed=0, target_modules=["q_proj"])
    told = explain_targets(llama(), config)
    layer = get_peft_model(llama(), config).base_model.model.model.layers[0].self_attn.q_proj
    assert told.groups[0].matrix_rank == torch.linalg.matrix_rank(layer.get_delta_weight("default")) == 5
    assert "model.layers.*.self_attn.q_proj  2      48 x 48   update" in str(told)
    assert "5 (of 8)" in str(told)
    assert "(of" not in str(explain_targets(llama(), LorettaRepConfig(r=4, tensor_rank=5)))


def test_placements_and_tensorised_layers_are_named():
    sides = {"gate_proj": "input", "down_proj": "output"}
    told = explain_targets(llama(), LorettaAdpConfig(placement=sides, bottleneck=8))
    assert [group.role for group in told.groups] == ["before", "after"]
    for scheme, role in (("residual", "beside"), ("gaussian", "instead")):
        config = LorettaRepConfig(tensorize_modules=["pooler.dense"], init_weights=scheme)
        assert explain_targets(bert(), config).groups[-1].role == role


def test_what_injection_refuses_is_refused_alike():
    with pytest.raises(ValueError, match="it is a LayerNorm"):
        explain_targets(bert(), LorettaRepConfig(target_modules=["LayerNorm"]))
    with pytest.raises(ValueError, match="Target modules .* not found"):
        explain_targets(bert(), LorettaRepConfig(target_modules=["nothing"]))
