"""TT-LoRA and MetaTT on the same base: formulas, counts, and everything that a user of LoRA expects of an adapter."""

import copy
import pickle

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, RobertaConfig

from tests.peft.tiny import MODELS, bert, checkpointed, llama, shake, tokens
from ttlib_peft import convert_to_lora, save_as_lora, trainable_parameters
from ttlib_peft.config import TensorPeftType
from ttlib_peft.methods.meta_tt import MetaTTConfig, MetaTTLinear, MetaTTModel, _place
from ttlib_peft.methods.tt_lora import TtLoraConfig, TtLoraLinear, TtLoraModel
from ttlib_peft.register import register

register(TensorPeftType.TT_LORA, TtLoraConfig, TtLoraModel)
register(TensorPeftType.META_TT, MetaTTConfig, MetaTTModel)

METHODS = {"tt_lora": TtLoraConfig, "meta_tt": MetaTTConfig}
LAYERS = (TtLoraLinear, MetaTTLinear)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SCHEMES = ["residual", "zero", "gaussian"]


@pytest.fixture(params=MODELS)
def make(request):
    builder, task = MODELS[request.param]
    builder.task = task
    return builder


@pytest.fixture(params=METHODS)
def config_class(request):
    return METHODS[request.param]


def adapted(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}


def dense(cores):
    """The matrix [in, L, M, out] of a train of four cores, or the tensor of any train, in numpy."""
    tensor = cores[0].detach().numpy()
    for core in cores[1:]:
        tensor = np.tensordot(tensor, core.detach().numpy(), axes=1)
    return tensor[0, ..., 0]


# --- the formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["residual", "zero", "gaussian", "paper-mean", "spectral"])
def test_tt_lora_is_alpha_times_its_train_minus_the_start(scheme):
    base = torch.nn.Sequential(torch.nn.Linear(12, 20)).double()
    config = TtLoraConfig(
        target_modules=["0"], tensor_rank=3, tensor_shape=[3, 4, 5, 4], alpha=0.7, init_weights=scheme, seed=1
    )
    model = get_peft_model(base, config).eval()
    layer = model.base_model.model[0]
    train = layer.tt_lora_train["default"]
    start = dense(train.cores) if scheme in ("residual", "spectral") else 0
    if scheme == "paper-mean":
        start = dense(train.cores).mean()
    shake(model)
    update = 0.7 * (dense(train.cores) - start).reshape(12, 20)
    x = torch.randn(5, 12, dtype=torch.float64)
    torch.testing.assert_close(model(x), layer.base_layer(x) + x @ torch.from_numpy(update))
    torch.testing.assert_close(layer.get_delta_weight("default").T, torch.from_numpy(update))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_meta_tt_is_alpha_times_its_cell_minus_the_start(scheme):
    model = get_peft_model(llama(torch.float64), MetaTTConfig(tensor_rank=3, alpha=0.7, init_weights=scheme, seed=1))
    layers = adapted(model)
    owners = [layer for layer in layers.values() if layer.meta_tt_train]
    starts = {id(o.meta_tt_train["default"]): dense(o.meta_tt_train["default"].cores) for o in owners}
    shake(model)
    for name, layer in layers.items():
        own = layers[name.replace(".1.", ".0.")].meta_tt_train["default"]  # that of layer 0, for each size
        whole = dense(own.cores) - (starts[id(own)] if scheme == "residual" else 0)  # (in, L, M, out)
        update = 0.7 * whole[:, int(".1." in name), 0]
        torch.testing.assert_close(layer.get_delta_weight("default").T, torch.from_numpy(update))
        x = torch.randn(2, 5, layer.in_features, dtype=torch.float64).transpose(0, 1)  # not contiguous
        torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ torch.from_numpy(update))


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=2), min_size=1, max_size=2),
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.sampled_from(SCHEMES),
)
def test_any_grid_of_layers_and_projections(grid, sizes, ranks, scheme):
    """Values and gradients against the definition, with one train for each size."""
    layers, kinds = grid
    sizes = [tuple(size) for size in sizes]

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for i, (rows, cols) in enumerate(sizes):
                for kind in range(kinds):
                    self.add_module(f"p{i}_{kind}", torch.nn.Linear(rows, cols, bias=False))

    base = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([Block() for _ in range(layers)])}).double()
    config = MetaTTConfig(target_modules=r".*p\d_\d", tensor_rank=ranks, init_weights=scheme)
    model = shake(get_peft_model(base, config), scale=0.5)
    total = want = 0.0
    trains = {}
    for depth, block in enumerate(model.base_model.model["blocks"]):
        for name, layer in block.named_children():
            size = (layer.in_features, layer.out_features)
            if layer.meta_tt_train:
                trains[size] = layer.meta_tt_train["default"]
            same = [i for i, other in enumerate(sizes) if other == size]
            m = same.index(int(name[1])) * kinds + int(name[3])
            x = torch.linspace(-1, 1 + depth, 3 * size[0], dtype=torch.float64).reshape(3, -1)
            total = total + (layer(x) - layer.base_layer(x)).square().sum()
            g = trains[size].cores
            moved = g[0][0] @ g[1][:, depth] @ g[2][:, m] @ g[3][..., 0]
            if scheme == "residual":
                s = trains[size]._unpack(trains[size].initial)
                moved = moved - s[0][0] @ s[1][:, depth] @ s[2][:, m] @ s[3][..., 0]
            want = want + (x @ moved).square().sum()
    flats = [train.flat for train in trains.values()]
    torch.testing.assert_close(total, want)
    for ours, theirs in zip(torch.autograd.grad(total, flats), torch.autograd.grad(want, flats), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    a, b, c = ranks
    count = sum(
        rows * a + a * layers * b + b * kinds * sizes.count((rows, cols)) * c + c * cols for rows, cols in set(sizes)
    )
    assert trainable_parameters(model)["adapters"] == count


# --- the counts -----------------------------------------------------------------------------------------------------


def on_meta(config, auto):
    with torch.device("meta"):
        return auto.from_config(config)


def counted(base, config):
    return trainable_parameters(get_peft_model(base, config))["adapters"]


def test_counts_of_roberta_base():
    base = RobertaConfig(vocab_size=50265)
    shape = {"768x768": [64, 4, 3, 3, 4, 64]}
    tt_lora = TtLoraConfig(tensor_rank=5, tensor_shape=shape, target_modules=["query", "value"])
    one = 64 * 5 + 5 * 4 * 5 + 5 * 3 * 5 + 5 * 3 * 5 + 5 * 4 * 5 + 5 * 64
    assert counted(on_meta(base, AutoModelForSequenceClassification), tt_lora) == 24 * one == 23_760
    meta_tt = MetaTTConfig(tensor_rank=8, target_modules=["query", "value"])
    want = 2 * 768 * 8 + (12 + 2) * 8**2
    assert counted(on_meta(base, AutoModelForSequenceClassification), meta_tt) == want == 13_184


@pytest.mark.parametrize(
    ("heads", "expected"), [(32, 2 * 4096 * 8 + (32 + 2) * 64), (8, 4096 * 8 * 3 + 1024 * 8 + 2 * 33 * 64)]
)
def test_counts_of_llama(heads, expected):
    """Full attention: one train for q and v; grouped queries: v is 4096 x 1024 and has its own."""
    config = LlamaConfig(intermediate_size=11008, num_attention_heads=32, num_key_value_heads=heads)
    base = on_meta(config, AutoModelForCausalLM)
    assert counted(base, MetaTTConfig(tensor_rank=8, target_modules=["q_proj", "v_proj"])) == expected


def test_counts_of_tt_lora_on_llama_2_7b():
    base = on_meta(LlamaConfig(intermediate_size=11008, num_attention_heads=32), AutoModelForCausalLM)
    shape = [16, 16, 16, 16, 16, 16]
    config = TtLoraConfig(tensor_rank=5, tensor_shape=shape, target_modules=["q_proj", "v_proj"])
    assert counted(base, config) == 64 * (16 * 5 + 4 * 5 * 16 * 5 + 5 * 16) == 112_640


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("encoder.layer.11.attention.self.query", ("11", "encoder.layer.*.attention.self.query")),
        ("h.0.attn.c_attn", ("0", "h.*.attn.c_attn")),
        ("encoder.block.3.layer.0.SelfAttention.q", ("3", "encoder.block.*.layer.0.SelfAttention.q")),
        ("model.layers.3.mlp.experts.5.w1", ("3", "model.layers.*.mlp.experts.5.w1")),
        ("0.auto_model.encoder.layer.4.output.dense", ("4", "0.auto_model.encoder.layer.*.output.dense")),
        ("pooler.dense", ("0", "pooler.dense")),
        ("0", ("0", "0")),
    ],
)
def test_where_a_module_stands(name, place):
    assert _place(name) == place


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({"target_modules": ["query", "value"]}, {(48, 2, 2, 48)}),
        ({"target_modules": ["query", "value"], "layers_to_transform": [1]}, {(48, 1, 2, 48)}),
        # query, key, value, attention.output, pooler; intermediate; output; classifier
        ({"target_modules": "all-linear"}, {(48, 2, 5, 48), (48, 2, 1, 96), (96, 2, 1, 48), (48, 1, 1, 3)}),
    ],
)
def test_modes_are_the_layers_and_kinds_that_are_adapted(settings, modes):
    model = get_peft_model(bert(), MetaTTConfig(**settings))
    assert {layer.meta_tt_cell["default"].train.tensor_shape for layer in adapted(model).values()} == modes
    cells = [layer.meta_tt_cell["default"] for layer in adapted(model).values()]
    assert len({(id(cell.train), cell.layer, cell.kind) for cell in cells}) == len(cells)  # a cell each


def test_an_adapter_made_anew_has_one_train():
    model = inject_adapter_in_model(MetaTTConfig(target_modules=["value"]), bert())
    with pytest.warns(UserWarning, match="Already found a `peft_config`"):
        inject_adapter_in_model(MetaTTConfig(target_modules=["query", "value"]), model)
    assert [name for name in model.state_dict() if name.endswith("flat")] == [
        "bert.encoder.layer.0.attention.self.query.meta_tt_train.default.flat"
    ]
    assert len({id(layer.meta_tt_cell["default"].train) for layer in adapted(model).values()}) == 1


def test_nothing_is_allocated_for_loading_on_meta():
    config = MetaTTConfig(target_modules=["query"])
    model = inject_adapter_in_model(config, bert(), low_cpu_mem_usage=True)
    assert {p.device.type for n, p in model.named_parameters() if "meta_tt" in n} == {"meta"}


# --- what an adapter does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_start_is_exact_and_every_core_has_a_gradient(make, config_class, scheme, dtype):
    before = make(dtype)(tokens()).logits
    model = get_peft_model(make(dtype), config_class(init_weights=scheme, task_type=make.task)).eval()
    after = model(tokens()).logits
    assert torch.equal(before, after) == (scheme != "gaussian")
    (after.float() * torch.randn(after.shape)).sum().backward()
    flats = {n: p for n, p in model.named_parameters() if n.endswith("flat")}
    for name, parameter in flats.items():
        assert parameter.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        owner = model.get_submodule(name.rpartition(".")[0])
        if scheme != "zero":
            assert all(core.any() for core in owner._unpack(parameter.grad)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_save_and_load_give_bit_identical_logits(make, config_class, scheme, dtype, tmp_path):
    model = get_peft_model(make(dtype), config_class(init_weights=scheme, task_type=make.task))
    expected = shake(model).eval()(tokens()).logits
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(saved[name.replace(".modules_to_save.default", "").replace(".default", "")], parameter)
    for low_cpu_mem_usage in (False, True):
        loaded = PeftModel.from_pretrained(make(dtype), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(loaded(tokens()).logits, expected)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_meta_tt_is_saved_once(tmp_path):
    model = get_peft_model(llama(), MetaTTConfig(target_modules="all-linear", tensor_rank=2, init_weights="zero"))
    assert len(adapted(model)) == 2 * 7
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    # q and o, k and v, gate and up, down
    assert sorted(t.numel() for t in saved.values()) == sorted(
        2 * (rows + cols) + (2 + kinds) * 4
        for rows, cols, kinds in [(48, 48, 2), (48, 24, 2), (48, 101, 2), (101, 48, 1)]
    )


def test_every_layer_moves_with_the_shared_train():
    model = get_peft_model(bert(), MetaTTConfig(target_modules=["query", "value"])).eval()
    flats = [p for p in model.parameters() if p.requires_grad]
    assert len(flats) == 1
    optimiser = torch.optim.SGD(flats, lr=0.1)
    before = {name: layer.get_delta_weight("default").detach() for name, layer in adapted(model).items()}
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        trains = {id(layer.meta_tt_cell["default"].train) for layer in adapted(copied).values()}
        assert trains == {id(m) for n, m in copied.named_modules() if n.endswith("meta_tt_train.default")}
        assert len(trains) == 1
    losses = []
    for _ in range(3):
        loss = model(tokens()).logits.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert all(not torch.equal(layer.get_delta_weight("default"), before[n]) for n, layer in adapted(model).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_merge_unmerge_and_unload(make, config_class, scheme, dtype):
    model = get_peft_model(make(dtype), config_class(init_weights=scheme, task_type=make.task)).eval()
    expected = shake(model)(tokens()).logits
    tolerance = {"atol": 5e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 1e-13, "rtol": 1e-12}
    with model.disable_adapter():
        assert torch.equal(model(tokens()).logits, make(dtype)(tokens()).logits)
    model.merge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, **tolerance)
    model.unmerge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, **tolerance)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(tokens()).logits, expected, **tolerance)
    assert not adapted(merged)


def test_unload_gives_the_base_model_back(make, config_class):
    model = shake(get_peft_model(make(), config_class(task_type=make.task)))
    base = model.unload()
    assert torch.equal(base.base_model(tokens())[0], make().base_model(tokens())[0])
    assert not adapted(base)


def test_a_broken_adapter_leaves_every_weight_bit_identical(config_class):
    model = get_peft_model(bert(), config_class(target_modules=["query", "value"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "base_layer" in name}
    with torch.no_grad():
        [p for p in model.parameters() if p.requires_grad][-1][3] = float("inf")
    with pytest.raises(ValueError, match="would be NaN or infinite"):
        model.merge_adapter()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_exported_to_lora_it_computes_the_same(make, config_class, scheme, tmp_path):
    model = get_peft_model(make(), config_class(init_weights=scheme, tensor_rank=3, task_type=make.task)).eval()
    expected = shake(model)(tokens()).logits
    config, weights = convert_to_lora(model)
    assert config.r == (6 if scheme == "residual" else 3)
    assert {name.split(".")[-2] for name in weights} <= {"lora_A", "lora_B", "classifier"}
    save_as_lora(model, tmp_path)
    loaded = PeftModel.from_pretrained(make(), tmp_path)
    assert type(loaded.peft_config["default"]) is peft.LoraConfig
    torch.testing.assert_close(loaded(tokens()).logits, expected, atol=5e-6, rtol=1e-5)
    assert model.supports_lora_conversion()


def test_the_narrowest_bond_is_the_rank_of_the_update():
    model = shake(get_peft_model(bert(), MetaTTConfig(tensor_rank=[5, 2, 4], init_weights="zero")))
    assert {layer.delta_factors("default")[0].shape for layer in adapted(model).values()} == {(48, 2)}
    assert convert_to_lora(model)[0].r == 2


# --- many adapters --------------------------------------------------------------------------------------------------


def test_several_adapters_switch_add_up_and_go(config_class):
    model = get_peft_model(bert(), config_class(target_modules=["query", "value"], seed=1), "first").eval()
    model.add_adapter("second", config_class(target_modules=["query"], seed=2, tensor_rank=2))
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad} == {"first"}
    first = shake(model)(tokens()).logits
    model.set_adapter("second")
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad} == {"second"}
    assert torch.equal(model(tokens()).logits, bert()(tokens()).logits)
    second = shake(model)(tokens()).logits
    mixed = model(tokens(), adapter_names=["first", "__base__", "second"]).logits
    torch.testing.assert_close(mixed, torch.stack([first[0], bert()(tokens()).logits[1], second[2]]))
    model.base_model.set_adapter(["first", "second"])
    assert not torch.equal(model(tokens()).logits, first)
    model.delete_adapter("first")
    torch.testing.assert_close(model(tokens()).logits, second)
    assert not any("first" in name for name in model.state_dict())
    assert all("first" not in layer._all_available_adapter_names() for layer in adapted(model).values())


def test_an_adapter_loads_beside_another_under_its_own_name(config_class, tmp_path):
    model = shake(get_peft_model(bert(), config_class(task_type="SEQ_CLS"))).eval()
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    other = get_peft_model(bert(), config_class(task_type="SEQ_CLS", tensor_rank=2)).eval()
    result = other.load_adapter(tmp_path, "loaded")
    assert not result.missing_keys
    other.set_adapter("loaded")
    assert torch.equal(other(tokens()).logits, expected)
    ours, theirs = get_peft_model_state_dict(model), get_peft_model_state_dict(other, adapter_name="loaded")
    assert ours.keys() == theirs.keys()


# --- around it ------------------------------------------------------------------------------------------------------


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


def test_injection_keeps_the_models_class(config_class):
    model = inject_adapter_in_model(config_class(target_modules=["query"]), bert())
    assert type(model).__name__ == "BertForSequenceClassification"
    assert torch.equal(model(tokens()).logits, bert()(tokens()).logits)


def test_compiles_as_one_graph(config_class):
    model = shake(get_peft_model(bert(), config_class(task_type="SEQ_CLS"))).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens()).logits, model(tokens()).logits)


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


def test_functional_transforms_give_the_gradients_of_autograd(config_class):
    model = shake(get_peft_model(bert(torch.float64), config_class(target_modules=["query", "value"]))).eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (tokens(),)).logits.square().sum()

    ours = torch.func.grad(loss)({name: p.detach() for name, p in trained.items()})
    loss(trained).backward()
    for name, p in trained.items():
        torch.testing.assert_close(ours[name], p.grad)


def test_eval_is_never_stale(config_class):
    """What is kept between passes is renewed after every write, also one through .data."""
    model = shake(get_peft_model(bert(), config_class(target_modules=["query", "value"]))).eval()
    with torch.no_grad():
        before = model(tokens()).logits
        assert torch.equal(model(tokens()).logits, before)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.mul_(1.5)
        after = model(tokens()).logits
        assert not torch.equal(after, before)
    torch.testing.assert_close(model(tokens()).logits, after)


def test_dropout_acts_in_training_only(config_class):
    base = torch.nn.Sequential(torch.nn.Linear(12, 12))
    model = shake(get_peft_model(base, config_class(dropout=0.5, target_modules="0")), scale=0.5)
    x = torch.randn(64, 12)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_status_norms_heads_and_scaling(config_class):
    config = config_class(
        target_modules=["query", "value"], alpha=2, alpha_pattern={"value": 0.5}, train_norms=True, task_type="SEQ_CLS"
    )
    model = get_peft_model(bert(), config)
    counts = trainable_parameters(model)
    assert counts["norms"] == 5 * 2 * 48
    assert counts["head"] == 48 * 3 + 3
    assert counts["total"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    status = model.get_model_status()
    assert status.trainable_params == counts["total"]
    assert status.active_adapters == ["default"]
    assert {name.rpartition(".")[2]: layer.scaling["default"] for name, layer in adapted(model).items()} == {
        "query": 2.0, "value": 0.5
    }  # fmt: skip
    assert f"{type(next(iter(adapted(model).values()))).__name__}" in repr(model)


def test_tensorized_head_beside_it(config_class, tmp_path):
    config = config_class(target_modules=["query"], tensorize_modules=["pooler.dense"], task_type="SEQ_CLS")
    model = shake(get_peft_model(bert(), config)).eval()
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(bert(), tmp_path)(tokens()).logits, expected)


def test_the_seed_decides_the_start(config_class):
    def start(seed):
        model = get_peft_model(bert(), config_class(target_modules=["query"], init_weights="gaussian", seed=seed))
        return [p for p in model.parameters() if p.requires_grad]

    assert all(torch.equal(a, b) for a, b in zip(start(5), start(5), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(start(5), start(6), strict=True))


def test_grouping_the_factors_of_tt_lora_changes_nothing():
    def gradients(group_factors):
        config = TtLoraConfig(target_modules=["query", "value"], group_factors=group_factors, seed=0)
        model = shake(get_peft_model(bert(torch.float64), config)).train()
        for _ in range(2):
            loss = model(tokens()).logits.square().sum()
        loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, theirs)


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "16", True, None])
def test_alpha_is_a_finite_number(config_class, alpha):
    with pytest.raises(ValueError, match="alpha must be a finite number, got"):
        config_class(alpha=alpha)
    with pytest.raises(ValueError, match="alpha must be a finite number, got"):
        config_class(alpha_pattern={"query": alpha})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tensor_shape": [8, 6, 8, 6]}, r"modes \(in, L, M, out\): no tensor_shape or .*, got \[8, 6, 8, 6\]"),
        ({"tensor_rank_pattern": {"query": 3}}, r"no tensor_shape or tensor_rank_pattern, got \{'query': 3\}"),
        ({"init_weights": "paper-mean"}, "is for one matrix, got 'paper-mean': use 'residual'"),
        ({"init_weights": "spectral"}, "is for one matrix, got 'spectral': use 'residual'"),
    ],
)
def test_what_is_not_for_a_shared_train_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MetaTTConfig(**settings)
