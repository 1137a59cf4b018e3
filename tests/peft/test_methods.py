"""Both methods on three architectures in four dtypes: start, gradients, save and load, switch off, unload."""

import itertools

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from tests.peft.tiny import MODELS, bert, shake, tokens
from ttlib_peft import AdapterFileError, LorettaAdpConfig, LorettaRepConfig

METHODS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SCHEMES = ["residual", "zero", "gaussian", "paper-mean", "spectral"]


@pytest.fixture(params=MODELS)
def make(request):
    builder, task = MODELS[request.param]
    builder.task = task
    return builder


@pytest.fixture(params=METHODS)
def config_class(request):
    return METHODS[request.param]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_start_is_exact_and_every_core_has_a_gradient(make, config_class, scheme, dtype):
    base = make(dtype)
    before = base(tokens()).logits.detach().clone()
    model = get_peft_model(base, config_class(init_weights=scheme, task_type=make.task)).eval()
    after = model(tokens()).logits
    assert torch.equal(before, after) == (scheme in ("residual", "zero", "spectral"))
    (after.float() * torch.randn(after.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        if "loretta" in name and name.endswith("flat"):
            assert parameter.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            if scheme != "zero":
                owner = model.get_submodule(name.rpartition(".")[0])
                assert all(core.any() for core in owner._unpack(parameter.grad)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_save_and_load_give_bit_identical_logits(make, config_class, scheme, dtype, tmp_path):
    model = get_peft_model(make(dtype), config_class(init_weights=scheme, task_type=make.task, train_norms=True))
    expected = shake(model).eval()(tokens()).logits
    model.save_pretrained(tmp_path)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(make(dtype), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(loaded(tokens()).logits, expected)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_trained_tensor_is_in_the_file(config_class, scheme, tmp_path):
    model = get_peft_model(bert(), config_class(init_weights=scheme, task_type="SEQ_CLS", train_norms=True))
    shake(model).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum("LayerNorm" in name for name in trained) == 2 * (2 * 2 + 1)
    assert any("classifier" in name for name in trained)
    for name, parameter in trained.items():
        key = name.replace(".modules_to_save.default", "").replace(".default", "")
        assert torch.equal(saved[key], parameter), name
    starts = [name for name in saved if name.endswith("initial")]
    assert bool(starts) == (scheme in ("residual", "spectral"))


def test_a_float32_adapter_loads_losslessly_into_a_bfloat16_model(make, config_class, tmp_path):
    model = shake(get_peft_model(make(), config_class(task_type=make.task)))
    model.save_pretrained(tmp_path)
    expected = get_peft_model_state_dict(model)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(make(torch.bfloat16), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        for name, tensor in get_peft_model_state_dict(loaded).items():
            if "loretta" in name:
                assert torch.equal(tensor, expected[name]), name


def test_cores_saved_without_a_start_are_loaded_without_one(config_class):
    """The weights decide, not the settings of the model they are loaded into."""
    source = shake(get_peft_model(bert(), config_class(target_modules=["query"], init_weights="gaussian"))).eval()
    target = get_peft_model(bert(), config_class(target_modules=["query"], init_weights="residual")).eval()
    set_peft_model_state_dict(target, get_peft_model_state_dict(source))
    assert torch.equal(target(tokens()).logits, source(tokens()).logits)


@pytest.mark.parametrize("lost", ["one", "all"])
def test_a_file_that_lost_starts_is_refused(config_class, lost, tmp_path):
    shake(get_peft_model(bert(), config_class(target_modules=["query"]))).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    starts = sorted(name for name in tensors if name.endswith("initial"))
    for name in starts if lost == "all" else starts[:1]:
        del tensors[name]
    save_file(tensors, file)
    with pytest.raises(AdapterFileError, match="is not what was saved|lacks .*initial"):
        PeftModel.from_pretrained(bert(), tmp_path)


def test_low_precision_adapters_on_request(config_class):
    config = config_class(target_modules=["query"])
    model = get_peft_model(bert(torch.bfloat16), config, autocast_adapter_dtype=False)
    assert {p.dtype for n, p in model.named_parameters() if "loretta" in n} == {torch.bfloat16}
    assert torch.equal(model(tokens()).logits, bert(torch.bfloat16)(tokens()).logits)


def test_switching_off_restores_the_base_model_head_and_norms_included(make, config_class):
    expected = make()(tokens()).logits
    model = get_peft_model(make(), config_class(task_type=make.task, train_norms=True)).eval()
    shake(model)
    with model.disable_adapter():
        assert torch.equal(model(tokens()).logits, expected)
    assert not torch.equal(model(tokens()).logits, expected)


def test_unload_gives_the_base_model_back(make, config_class):
    model = get_peft_model(make(), config_class(task_type=make.task))
    shake(model)
    base = model.unload()
    # the body: PEFT keeps the trained head when it unloads
    assert torch.equal(base.base_model(tokens())[0], make().base_model(tokens())[0])
    assert not any("loretta" in name for name, _ in base.named_modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rep_merges_and_unmerges(make, scheme, dtype):
    model = get_peft_model(make(dtype), LorettaRepConfig(init_weights=scheme, task_type=make.task)).eval()
    expected = shake(model)(tokens()).logits
    tolerance = {"atol": 2e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-13, "rtol": 1e-12}
    model.merge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, **tolerance)
    model.unmerge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, **tolerance)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(tokens()).logits, expected, **tolerance)
    assert not any("loretta" in name for name, _ in merged.named_parameters())


def test_disabling_a_merged_adapter_unmerges_it():
    model = get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS")).eval()
    shake(model).merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(model(tokens()).logits, bert()(tokens()).logits)


@pytest.mark.parametrize("safe_merge", [False, True])
def test_a_broken_adapter_leaves_the_weight_bit_identical(safe_merge):
    model = get_peft_model(bert(), LorettaRepConfig(target_modules=["query"], layers_to_transform=[0]))
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    weight = layer.weight.clone()
    with torch.no_grad():
        layer.loretta_rep_A["default"].flat[3] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected in the merged weights.*default.*of 2304 entries"):
        model.merge_and_unload(safe_merge=safe_merge)
    assert torch.equal(layer.weight, weight)
    assert not layer.merged


def test_adp_refuses_to_merge_before_touching_anything():
    model = get_peft_model(bert(), LorettaAdpConfig(task_type="SEQ_CLS")).eval()
    expected = shake(model)(tokens()).logits
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(NotImplementedError, match="cannot be merged: an activation stands between"):
            merge()
    assert torch.equal(model(tokens()).logits, expected)


def test_several_adapters_add_up_and_switch(config_class):
    model = get_peft_model(bert(), config_class(target_modules=["query", "value"], seed=1), "first").eval()
    model.add_adapter("second", config_class(target_modules=["query"], seed=2))
    shake(model)  # moves the first alone: an added adapter starts inactive
    first = model(tokens()).logits
    model.set_adapter("second")
    assert torch.equal(model(tokens()).logits, bert()(tokens()).logits)
    shake(model)
    second = model(tokens()).logits
    assert not torch.equal(first, second)
    model.set_adapter("first")
    assert torch.equal(model(tokens()).logits, first)
    model.base_model.set_adapter(["first", "second"])
    both = model(tokens()).logits
    assert not torch.equal(both, first)
    model.delete_adapter("first")
    torch.testing.assert_close(model(tokens()).logits, second)
    assert not any("first" in name for name, _ in model.named_modules())


def test_the_seed_decides_the_start_layer_by_layer_whatever_else_is_adapted(config_class):
    def cores(**kwargs):
        model = get_peft_model(bert(), config_class(init_weights="gaussian", **kwargs))
        return {name: p for name, p in model.named_parameters() if "query" in name and "loretta" in name}

    one = cores(seed=5, target_modules=["query"])
    two = cores(seed=5, target_modules=["query", "value", "dense"])
    other = cores(seed=6, target_modules=["query"])
    flats = [name for name in one if name.endswith("flat")]
    assert all(torch.equal(one[name], two[name]) for name in flats)
    assert not any(torch.equal(one[name], other[name]) for name in flats)
    assert not any(torch.equal(one[a], one[b]) for a, b in itertools.combinations(flats, 2))


def test_without_a_seed_torchs_generator_decides_and_the_config_records_it(config_class):
    torch.manual_seed(3)
    first = config_class(target_modules=["query"])
    get_peft_model(bert(), first)  # bert() seeds the generator
    second = config_class(target_modules=["query"])
    get_peft_model(bert(), second)
    assert first.seed == second.seed is not None


@pytest.mark.parametrize("placement", ["output", "input"])
def test_adp_sits_where_it_is_told(placement):
    """Against the formula, written out in plain torch."""
    base = torch.nn.Sequential(torch.nn.Linear(12, 20)).double()
    config = LorettaAdpConfig(
        bottleneck=6, tensor_rank=3, placement=placement, target_modules=["0"], init_weights="gaussian", scaling=0.5
    )
    model = shake(get_peft_model(base, config)).eval()
    layer = model.base_model.model[0]
    down, up = layer.loretta_adp_down["default"], layer.loretta_adp_up["default"]
    x = torch.randn(4, 12, dtype=torch.float64)
    with torch.no_grad():
        h = x if placement == "input" else layer.base_layer(x)
        h = h + 0.5 * (torch.relu(h @ down.to_dense() + down.bias) @ up.to_dense() + up.bias)
        expected = layer.base_layer(h) if placement == "input" else h
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "identity"])
def test_adp_residual_is_the_adapter_minus_its_start(activation):
    base = torch.nn.Sequential(torch.nn.Linear(12, 20)).double()
    config = LorettaAdpConfig(bottleneck=6, tensor_rank=3, target_modules=["0"], non_linearity=activation)
    model = get_peft_model(base, config).eval()
    layer = model.base_model.model[0]
    down, up = layer.loretta_adp_down["default"], layer.loretta_adp_up["default"]
    act = {"identity": torch.nn.Identity()}.get(activation) or getattr(torch.nn.functional, activation, torch.tanh)

    def adapter(h):
        dense = [ttlinear_dense(module, cores) for module, cores in ((down, down.cores), (up, up.cores))]
        return act(h @ dense[0] + down.bias) @ dense[1] + up.bias

    h = layer.base_layer(torch.randn(4, 12, dtype=torch.float64))
    start = adapter(h)
    shake(model)
    torch.testing.assert_close(layer._adapt("default", h), h + adapter(h) - start)


def ttlinear_dense(module, cores):
    dense = cores[0]
    for core in cores[1:]:
        dense = torch.tensordot(dense, core, dims=1)
    return dense.reshape(module.in_features, module.out_features)


def test_dropout_acts_in_training_only(config_class):
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(12, 12)), config_class(dropout=0.5, target_modules="0"))
    shake(model, scale=0.5)
    x = torch.randn(64, 12)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_scaling_can_be_changed_and_restored():
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(12, 12)), LorettaRepConfig(target_modules="0"))
    layer = shake(model).base_model.model[0]
    x = torch.randn(5, 12)
    delta = model(x) - layer.base_layer(x)
    layer.scale_layer(0.5)
    torch.testing.assert_close(model(x) - layer.base_layer(x), 0.5 * delta)
    layer.unscale_layer(0.5)
    layer.set_scale("default", 3.0)
    torch.testing.assert_close(model(x) - layer.base_layer(x), 3 * delta, rtol=1e-4, atol=1e-6)
    layer.unscale_layer()
    torch.testing.assert_close(model(x) - layer.base_layer(x), delta)
