"""What LoRA users take for granted: mixed batches, whole merges, embeddings, tensorised heads, both placements."""

import copy
import itertools
import pickle

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from tests.peft.tiny import MODELS, bert, gpt2, llama, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, trainable_parameters

METHODS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}


@pytest.fixture(params=METHODS)
def config_class(request):
    return METHODS[request.param]


@pytest.fixture(params=MODELS)
def make(request):
    builder, task = MODELS[request.param]
    builder.task = task
    return builder


def roberta():
    torch.manual_seed(1)
    config = RobertaConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, vocab_size=50, num_labels=3
    )
    return RobertaForSequenceClassification(config).eval()


def two_adapters(base, config_class, **settings):
    model = get_peft_model(base, config_class(seed=1, **settings), "first")
    model.add_adapter("second", config_class(seed=2, **{**settings, "tensor_rank": 2}))
    model.set_adapter("first")
    shake(model)
    model.set_adapter("second")
    return shake(model, 0.2).eval()


# --- one adapter a sample


@pytest.mark.parametrize("merged_name", ["first", "second"])
def test_a_mixed_batch_is_each_adapter_on_its_own_samples(make, config_class, merged_name):
    model = two_adapters(make(), config_class, task_type=make.task)
    names = ["second", "__base__", "first"]
    mixed = model(tokens(), adapter_names=names).logits
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = model(tokens()[row : row + 1]).logits
        else:
            model.set_adapter(name)
            alone = model(tokens()[row : row + 1]).logits
        torch.testing.assert_close(mixed[row : row + 1], alone)
    assert not torch.allclose(mixed[0], mixed[2])


def test_generation_takes_a_name_a_sample_with_beams_too():
    model = two_adapters(llama(), LorettaRepConfig, task_type="CAUSAL_LM")
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 2):
        mixed = model.generate(
            input_ids=tokens(), adapter_names=["first", "second", "__base__"], num_beams=beams, **settings
        )
        model.set_adapter("second")
        alone = model.generate(input_ids=tokens(), num_beams=beams, **settings)
        assert torch.equal(mixed[1], alone[1])
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_mixed_batches_are_refused_where_they_cannot_be(config_class):
    model = two_adapters(bert(), config_class, task_type="SEQ_CLS")
    with pytest.raises(ValueError, match=r"non-existing adapter\(s\): third"):
        model(tokens(), adapter_names=["first", "third", "second"])
    with pytest.raises(ValueError, match="should be the same as the number of inputs, but got 2 and 3"):
        model(tokens(), adapter_names=["first", "second"])
    with pytest.raises(ValueError, match="training mode"):
        model.train()(tokens(), adapter_names=["first"] * 3)
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    if config_class is LorettaRepConfig:
        model.eval().merge_adapter()
        with pytest.raises(ValueError, match="merged adapters, please call `unmerge_adapter` first"):
            model(tokens(), adapter_names=["first", "second", "first"])


# --- merging


@pytest.mark.parametrize("call", ["merge_adapter", "merge_and_unload"])
def test_a_merge_that_fails_in_the_last_layer_leaves_every_layer_bit_identical(make, call):
    model = shake(get_peft_model(make(), LorettaRepConfig(task_type=make.task)))
    layers = [module for module in model.modules() if hasattr(module, "loretta_rep_B")]
    with torch.no_grad():
        layers[-1].loretta_rep_B["default"].flat[0] = float("inf")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="NaNs detected in the merged weights. The adapter default"):
        getattr(model, call)()
    assert not any(layer.merged for layer in layers)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) or "loretta" in name


def test_an_update_that_would_overflow_the_weights_dtype_is_refused():
    model = get_peft_model(bert(torch.float16), LorettaRepConfig(target_modules=["query"], init_weights=False))
    layer = model.base_model.model.bert.encoder.layer[1].attention.self.query
    with torch.no_grad():
        layer.loretta_rep_A["default"].flat.mul_(1e6)  # finite in float32, where the adapter is
    weight = layer.weight.clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter()
    assert torch.equal(layer.weight, weight)


def test_several_adapters_merge_together_and_apart():
    model = two_adapters(bert(), LorettaRepConfig, task_type=None)
    weight = bert().bert.encoder.layer[0].attention.self.query.weight
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    expected = weight + layer.get_delta_weight("first") + layer.get_delta_weight("second")
    model.merge_adapter(["first", "second"])
    torch.testing.assert_close(layer.weight, expected)
    assert layer.merged_adapters == ["first", "second"]
    model.unmerge_adapter()
    torch.testing.assert_close(layer.weight, weight)
    model.merge_adapter(["second"])
    torch.testing.assert_close(layer.weight, weight + layer.get_delta_weight("second"))


# --- embeddings


@pytest.mark.parametrize("scheme", ["residual", "zero", "gaussian", "paper-mean", "spectral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_embeddings_are_adapted_merged_and_saved(scheme, dtype, tmp_path):
    def build():
        return bert(dtype)

    config = LorettaRepConfig(target_modules=["word_embeddings"], init_weights=scheme, r=4, tensor_rank=3)
    model = get_peft_model(build(), config).eval()
    starts_there = torch.equal(model(tokens()).logits, build()(tokens()).logits)
    assert starts_there == (scheme in ("residual", "zero", "spectral"))
    shake(model)
    layer = model.base_model.model.bert.embeddings.word_embeddings
    assert type(layer).__name__ == "LorettaRepEmbedding"
    dense = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(layer(tokens()).double(), dense[tokens()], atol=tolerance, rtol=tolerance)
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert torch.equal(PeftModel.from_pretrained(build(), tmp_path)(tokens()).logits, expected)
    if dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(model.merge_and_unload()(tokens()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["residual", "zero", "gaussian", "paper-mean", "spectral"])
def test_an_embeddings_gradients_are_those_of_the_dense_table(scheme):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Embedding(30, 12)).double()
    model = get_peft_model(
        base, LorettaRepConfig(target_modules=["0"], r=4, tensor_rank=3, init_weights=scheme, alpha=8)
    )
    shake(model)
    layer = model.base_model.model[0]
    ids = torch.randint(0, 30, (5, 3))
    cotangent = torch.randn(5, 3, 12, dtype=torch.float64)
    flats = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((layer(ids) * cotangent).sum(), flats)
    dense = layer.base_layer.weight + layer.get_delta_weight("default")
    expected = torch.autograd.grad((dense[ids] * cotangent).sum(), flats)
    torch.testing.assert_close(ours, expected)


# --- heads and poolers as tensor trains


@pytest.mark.parametrize("scheme", ["residual", "zero", "gaussian", "paper-mean", "spectral"])
def test_a_tensorised_pooler_starts_as_it_says_and_is_restored(config_class, scheme, tmp_path):
    config = config_class(
        task_type="SEQ_CLS", tensorize_modules=["pooler.dense"], init_weights=scheme, train_norms=True
    )
    model = get_peft_model(bert(), config).eval()
    before = bert()(tokens()).logits
    assert torch.equal(model(tokens()).logits, before) == (scheme in ("residual", "zero", "spectral"))
    layer = model.base_model.model.bert.pooler.dense
    assert type(layer).__name__ == "TensorizedLinear"
    shake(model)
    train = layer.train_of("default")
    x = torch.randn(5, 48)
    expected = x @ train.to_dense() + train.bias
    if scheme in ("residual", "zero", "spectral"):
        expected = expected + layer.base_layer(x)
    torch.testing.assert_close(layer(x), expected)
    trained = model(tokens()).logits
    with model.disable_adapter():
        assert torch.equal(model(tokens()).logits, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(bert(), tmp_path)(tokens()).logits, trained)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = name.replace(".modules_to_save.default", "").replace(".default", "")
            assert torch.equal(saved[key], parameter), name
    assert trainable_parameters(model)["adapters"] == sum(
        p.numel() for n, p in model.named_parameters() if p.requires_grad and "loretta" in n
    )
    assert torch.equal(model.unload().bert.pooler.dense.weight, bert().bert.pooler.dense.weight)


def test_a_tensorised_layer_inside_a_saved_classifier_leaves_the_rest_of_it_to_be_saved(config_class, tmp_path):
    config = config_class(task_type="SEQ_CLS", tensorize_modules=["classifier.dense"])
    model = get_peft_model(roberta(), config).eval()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "classifier" in name}
    assert trained == {
        f"base_model.model.classifier.dense.{config_class().peft_type.value.lower()}_tensorized.default.flat",
        f"base_model.model.classifier.dense.{config_class().peft_type.value.lower()}_tensorized.default.bias",
        "base_model.model.classifier.out_proj.modules_to_save.default.weight",
        "base_model.model.classifier.out_proj.modules_to_save.default.bias",
    }
    assert torch.equal(model(tokens()).logits, roberta()(tokens()).logits)
    expected = shake(model)(tokens()).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(roberta(), tmp_path)(tokens()).logits, expected)


@pytest.mark.parametrize("scheme", ["residual", "gaussian"])
def test_a_tensorised_layer_merges_and_unmerges_exactly(scheme):
    config = LorettaRepConfig(task_type="SEQ_CLS", tensorize_modules=["pooler.dense"], init_weights=scheme)
    model = shake(get_peft_model(bert(), config)).eval()
    layer = model.base_model.model.bert.pooler.dense
    expected, frozen = model(tokens()).logits, layer.base_layer
    model.merge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    assert layer.base_layer is frozen
    assert torch.equal(layer.base_layer.weight, bert().bert.pooler.dense.weight)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(tokens()).logits, expected, atol=1e-5, rtol=1e-5)
    assert type(merged.bert.pooler.dense) is nn.Linear


def test_a_broken_tensorised_layer_is_not_merged_and_neither_is_anything_else():
    model = shake(get_peft_model(bert(), LorettaRepConfig(tensorize_modules=["pooler.dense"])))
    with torch.no_grad():
        model.base_model.model.bert.pooler.dense.train_of("default").flat[0] = float("nan")
    with pytest.raises(ValueError, match="its tensorised layer would hold NaN"):
        model.merge_adapter()
    assert not any(getattr(module, "merged", False) for module in model.modules())


def test_tensorised_layers_copy_pickle_and_run_mixed_batches(config_class):
    model = two_adapters(bert(), config_class, tensorize_modules=["pooler.dense"])
    names = ["second", "__base__", "first"]
    mixed = model(tokens(), adapter_names=names).logits
    with model.disable_adapter():
        torch.testing.assert_close(mixed[1:2], model(tokens()[1:2]).logits)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(copied(tokens(), adapter_names=names).logits, mixed)


def test_tensorize_modules_that_cannot_be():
    with pytest.raises(ValueError, match="tensorize_modules names 'poolr', which is no module"):
        get_peft_model(bert(), LorettaRepConfig(tensorize_modules=["poolr"]))
    with pytest.raises(ValueError, match="bert.pooler.activation is not supported: it is a Tanh"):
        get_peft_model(bert(), LorettaRepConfig(tensorize_modules=["pooler.activation"]))
    model = get_peft_model(bert(), LorettaRepConfig(tensorize_modules=["pooler.dense"]))
    with pytest.raises(ValueError, match="bert.pooler.dense is in the tensorize_modules of one adapter"):
        model.add_adapter("other", LorettaRepConfig(target_modules=["query", "pooler.dense"]))


# --- where adapters stand


def test_placement_by_name_puts_adapters_on_both_sides_as_the_reference_does_for_llama():
    placement = {"gate_proj": "input", "up_proj": "input", "down_proj": "output"}
    model = get_peft_model(llama(), LorettaAdpConfig(placement=placement, bottleneck=8))
    sides = {
        name.rpartition(".")[2]: (
            module.loretta_adp_placement["default"],
            module.loretta_adp_down["default"].in_features,
        )
        for name, module in model.named_modules()
        if type(module).__name__ == "LorettaAdpLinear"
    }
    assert sides == {"gate_proj": ("input", 48), "up_proj": ("input", 48), "down_proj": ("output", 48)}
    assert torch.equal(model(tokens()).logits, llama()(tokens()).logits)


@pytest.mark.parametrize("builder", [bert, llama, gpt2])
def test_input_placement_has_targets_of_its_own(builder):
    model = get_peft_model(builder(), LorettaAdpConfig(placement="input", bottleneck=8))
    hit = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m).__name__ == "LorettaAdpLinear"}
    assert hit == {bert: {"dense"}, llama: {"gate_proj", "up_proj"}, gpt2: {"c_fc"}}[builder]


def test_ranks_by_module_and_by_matrix():
    config = LorettaRepConfig(
        target_modules=["query", "value"], r=8, tensor_rank=3,
        rank_pattern={"layer.0.attention.self.query": 4}, alpha_pattern={"value": 32},
        tensor_rank_pattern={"query": 2, r"layer\.1\..*value": {"A": [2, 3, 2], "B": 1}},
        tensor_shape={"48x8": [6, 8, 4, 2], "8x48": [2, 4, 6, 8], "48x4": [6, 8, 4], "4x48": [4, 6, 8]},
    )  # fmt: skip
    encoder = get_peft_model(bert(), config).base_model.model.bert.encoder
    ranks = {
        (index, name): [getattr(layer, matrix)["default"].ranks[1:-1] for matrix in ("loretta_rep_A", "loretta_rep_B")]
        for index, name in itertools.product((0, 1), ("query", "value"))
        for layer in [getattr(encoder.layer[index].attention.self, name)]
    }
    assert ranks == {
        (0, "query"): [(2, 2), (2, 2)],
        (0, "value"): [(3, 3, 2), (2, 3, 3)],
        (1, "query"): [(2, 2, 2), (2, 2, 2)],
        (1, "value"): [(2, 3, 2), (1, 1, 1)],
    }
    assert encoder.layer[0].attention.self.query.scaling["default"] == 16 / 4
    assert encoder.layer[0].attention.self.value.scaling["default"] == 32 / 8


def test_users_are_told_once_that_the_tensor_rank_caps_the_rank_of_the_update(caplog):
    def said(**settings):
        caplog.clear()
        model = get_peft_model(bert(), LorettaRepConfig(init_weights=False, **settings))
        layer = next(module for module in model.modules() if hasattr(module, "loretta_rep_A"))
        return torch.linalg.matrix_rank(layer.get_delta_weight("default")), caplog.messages

    rank, messages = said(r=7, tensor_rank=3)
    assert rank == 3
    assert messages == [
        "r is 7, but tensor_rank gives updates of rank 3, which a bond between rows and columns caps, in 4 of 4 modules: "
        "tensor_rank=7 has the rank, r=3 costs less"
    ]
    assert said(r=7, tensor_rank=3)[1] == []
    assert said(r=3, tensor_rank=3) == (3, [])


def test_ranks_for_modules_that_are_not_adapted_are_warned_about():
    with pytest.warns(RuntimeWarning, match="tensor_rank_pattern keys did not match any targeted module .* {'key'}"):
        get_peft_model(bert(), LorettaRepConfig(tensor_rank_pattern={"key": 2, "query": 3}))


def test_what_an_adapter_could_not_reach_is_refused():
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(ValueError, match="out_proj is not supported: torch.nn.MultiheadAttention reads its weight"):
        get_peft_model(nn.Sequential(attention), LorettaRepConfig(target_modules=["0.out_proj"]))
    with pytest.raises(ValueError, match="0 is not supported: it is a Conv2d, not one of torch.nn.Linear"):
        get_peft_model(nn.Sequential(nn.Conv2d(3, 3, 1)), LorettaRepConfig(target_modules=["0"]))
    with pytest.raises(ValueError, match="0 is not supported: it is a Embedding"):
        get_peft_model(nn.Sequential(nn.Embedding(3, 3)), LorettaAdpConfig(target_modules=["0"]))


# --- around


def test_the_auto_classes_load_an_adapter_with_its_base_model(config_class, tmp_path):
    bert().save_pretrained(tmp_path / "base")
    base = type(bert()).from_pretrained(tmp_path / "base")
    model = shake(get_peft_model(base, config_class(task_type="SEQ_CLS", train_norms=True))).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3)
    assert torch.equal(loaded.eval()(tokens()).logits, model(tokens()).logits)


def test_adapters_are_added_deleted_and_loaded_beside_each_other(config_class, tmp_path):
    model = two_adapters(bert(), config_class, target_modules=["query", "output.dense"])
    model.set_adapter("first")
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    model.set_adapter("second")
    model.delete_adapter("first")
    assert set(model.peft_config) == {"second"}
    assert not any(".first." in name for name, _ in model.named_parameters())
    model.load_adapter(tmp_path / "first", "again")
    model.set_adapter("again")
    assert torch.equal(model(tokens()).logits, expected)
    with pytest.raises(ValueError, match="not found"):
        model.set_adapter("first")


@pytest.mark.parametrize("bias", ["all", "loretta_only"])
def test_trained_biases_are_saved(config_class, bias, tmp_path):
    model = get_peft_model(bert(), config_class(task_type="SEQ_CLS", bias=bias))
    trained = [name for name, p in model.named_parameters() if p.requires_grad and "loretta" not in name]
    assert any(name.endswith("base_layer.bias") for name in trained)
    expected = shake(model).eval()(tokens()).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(bert(), tmp_path)(tokens()).logits, expected)


# --- the spectral start


@pytest.mark.parametrize("builder", [bert, gpt2])
def test_the_spectral_start_lies_in_the_leading_directions_of_the_frozen_weight(builder):
    targets = ["query"] if builder is bert else ["attn.c_attn"]
    config = LorettaRepConfig(r=4, tensor_rank=1000, init_weights="spectral", target_modules=targets)
    model = get_peft_model(builder(), config)
    layer = next(module for module in model.modules() if hasattr(module, "loretta_rep_A"))
    weight = layer.base_layer.weight.T if builder is bert else layer.base_layer.weight  # (in, out)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    a, b = layer.loretta_rep_A["default"], layer.loretta_rep_B["default"]
    dense_a, dense_b = (_without_start(train) for train in (a, b))
    torch.testing.assert_close(left[:, :4] @ (left[:, :4].T @ dense_a), dense_a, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close((dense_b @ right[:4].T) @ right[:4], dense_b, atol=1e-5, rtol=1e-4)
    assert not layer.get_delta_weight("default").any()


def test_the_spectral_start_of_a_bottleneck_wider_than_the_layer():
    config = LorettaAdpConfig(
        bottleneck=64,
        tensor_rank=2,
        init_weights="spectral",
        tensor_shape={"8x64": [8, 4, 4, 4], "64x8": [4, 4, 4, 8]},
        target_modules=["0"],
    )
    base = torch.nn.Sequential(torch.nn.Linear(8, 8))
    model = get_peft_model(base, config)
    x = torch.randn(5, 8)
    assert torch.equal(model(x), base[0].base_layer(x))
    model(x).square().sum().backward()
    for name in ("loretta_adp_down", "loretta_adp_up"):
        train = getattr(base[0], name)["default"]
        assert all(core.any() for core in train._unpack(train.flat.grad))


def _without_start(train):
    kept, train.initial = train.initial, None
    dense = train.to_dense().detach()
    train.initial = kept
    return dense
