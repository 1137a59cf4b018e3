"""Around the methods: registration, transformers' own adapters, checkpointing, compilation, counting."""

import copy
import pickle

import peft
import pytest
import torch
from peft import get_peft_model, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tests.peft.tiny import bert, checkpointed, llama, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, trainable_parameters
from ttlib_peft.config import TensorPeftType
from ttlib_peft.methods.loretta_rep import LorettaRepModel
from ttlib_peft.register import register, register_all
from ttlib_peft.tuner import norm_names

CONFIGS = [LorettaRepConfig, LorettaAdpConfig]


def test_importing_registers_and_registering_again_does_nothing():
    before = dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    register_all()
    assert before == PEFT_TYPE_TO_CONFIG_MAPPING
    assert PEFT_TYPE_TO_CONFIG_MAPPING["LORETTA_REP"] is LorettaRepConfig
    assert PEFT_TYPE_TO_CONFIG_MAPPING[TensorPeftType.LORETTA_ADP] is LorettaAdpConfig


def test_another_packages_method_is_never_overwritten():
    class Other(LorettaRepConfig):
        pass

    with pytest.raises(KeyError, match="already has a method LORETTA_REP, from ttlib_peft.methods.loretta_rep"):
        register(TensorPeftType.LORETTA_REP, Other, LorettaRepModel)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_print_trainable_parameters(config_class, capsys):
    model = get_peft_model(bert(), config_class(task_type="SEQ_CLS"))
    model.print_trainable_parameters()
    counted = trainable_parameters(model)["total"]
    assert f"trainable params: {counted:,} ||" in capsys.readouterr().out


@pytest.mark.parametrize("config_class", CONFIGS)
def test_transformers_own_adapter_methods(config_class, tmp_path):
    model = bert()
    model.add_adapter(config_class(target_modules=["query", "output.dense"]), "mine")
    expected = shake(model)(tokens()).logits
    model.save_pretrained(tmp_path)
    loaded = bert()
    loaded.load_adapter(tmp_path)
    assert torch.equal(loaded(tokens()).logits, expected)
    loaded.disable_adapters()
    assert torch.equal(loaded(tokens()).logits, bert()(tokens()).logits)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_injection_keeps_the_models_class(config_class):
    model = inject_adapter_in_model(config_class(target_modules=["query"]), bert())
    assert type(model).__name__ == "BertForSequenceClassification"
    assert torch.equal(model(tokens()).logits, bert()(tokens()).logits)


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("target_modules", ["all-linear", r".*layer\.1\..*query", ["query", "intermediate.dense"]])
def test_targeting(config_class, target_modules):
    model = get_peft_model(bert(), config_class(target_modules=target_modules))
    assert torch.equal(model(tokens()).logits, bert()(tokens()).logits)
    hit = [
        name
        for name, module in model.named_modules()
        if "Loretta" in type(module).__name__ and "base_layer" not in name
    ]
    assert len([name for name in hit if name.startswith("base_model.model.bert")]) == {
        "all-linear": 13, r".*layer\.1\..*query": 1
    }.get(str(target_modules), 4)  # fmt: skip


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(config_class, use_reentrant):
    def gradients(checkpointing):
        model = shake(get_peft_model(llama(), config_class(task_type="CAUSAL_LM", seed=0))).train()
        if checkpointing:
            checkpointed(model, use_reentrant=use_reentrant)
        model(tokens(), labels=tokens()).loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("scheme", ["residual", "zero"])
def test_compiles_as_one_graph(config_class, scheme):
    model = shake(get_peft_model(bert(), config_class(task_type="SEQ_CLS", init_weights=scheme))).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_deepcopy_and_pickle(config_class):
    model = shake(get_peft_model(bert(), config_class(task_type="SEQ_CLS"))).eval()
    expected = model(tokens()).logits
    assert torch.equal(copy.deepcopy(model)(tokens()).logits, expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens()).logits, expected)  # noqa: S301


def test_layer_status_and_repr():
    model = get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS"))
    status = model.get_layer_status()
    assert {s.module_type for s in status} == {"loretta_rep.LorettaRepLinear", "ModulesToSaveWrapper"}
    assert "shape=" in repr(model)
    assert "loretta_rep.LorettaRepLinear" in repr(model)


def test_trainable_parameters_are_split_by_what_they_are():
    hidden, layers = 48, 2
    plain = trainable_parameters(bert())
    head = hidden * 3 + 3
    norms = (2 * layers + 1) * 2 * hidden
    assert plain == {
        "adapters": 0,
        "norms": norms,
        "head": head,
        "body": sum(p.numel() for p in bert().parameters()) - norms - head,
        "total": sum(p.numel() for p in bert().parameters()),
    }
    for config_class in CONFIGS:
        model = get_peft_model(bert(), config_class(task_type="SEQ_CLS", train_norms=True))
        counts = trainable_parameters(model)
        adapters = sum(p.numel() for n, p in model.named_parameters() if "loretta" in n and p.requires_grad)
        total = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert counts == {"adapters": adapters, "norms": norms, "head": head, "body": 0, "total": total}
    lora = get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", bias="all"))
    assert trainable_parameters(lora)["body"] > 0
    assert trainable_parameters(lora)["adapters"] == 2 * layers * 8 * (hidden + hidden)


def test_norms_are_named_by_suffixes_that_hit_nothing_else():
    assert norm_names(bert()) == ["LayerNorm"]
    assert norm_names(llama()) == ["input_layernorm", "norm", "post_attention_layernorm"]
    block = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(4), "my_norm": torch.nn.Linear(4, 4)})
    assert norm_names(torch.nn.ModuleDict({"block": block})) == ["block.norm"]


def test_norms_can_be_trained_by_a_second_adapter_too():
    model = get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS", train_norms=True), "first")
    model.add_adapter("second", LorettaRepConfig(task_type="SEQ_CLS", train_norms=True))
    model.set_adapter("second")
    shake(model)
    assert not torch.equal(model(tokens()).logits, bert()(tokens()).logits)
    assert set(model.peft_config["second"].modules_to_save) == {"classifier", "score", "LayerNorm"}
