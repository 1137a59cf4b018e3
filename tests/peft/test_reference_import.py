"""Checkpoints in the format of loretta 0.1.0, against plain tensordot of their factors."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn.functional import relu
from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from tests.peft.tiny import bert, llama, tokens
from ttlib.errors import NonFiniteError, ShapeError, TTFileError
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig
from ttlib_peft.reference_import import import_reference

ROOT = "base_model.model."
QUERIES = [f"bert.encoder.layer.{i}.attention.self.query" for i in range(2)]
OUTPUTS = [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
REP = {"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "tensor_rank": 3,
       "target_modules": ["query"], "bias": "none", "enable_lora": None, "fan_in_fan_out": False,
       "modules_to_save": None, "base_model_name_or_path": "", "inference_mode": True, "merge_weights": False}  # fmt: skip
ADP = {"peft_type": "BOTTLENECK", "task_type": "SEQ_CLS", "bottleneck_size": 16, "non_linearity": "relu",
       "adapter_dropout": 0.0, "scaling": 0.5, "tensor_rank": 3, "target_modules": ".*\\.output\\.dense",
       "bias": "none", "init_weights": "bert", "tensorized": True, "use_adapterp": False,
       "use_parallel_adapter": False}  # fmt: skip


def factors(modes, rank, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *[rank] * (len(modes) - 1), 1] if isinstance(rank, int) else [1, *rank, 1]
    shapes = [(a, mode, b) for a, mode, b in zip(ranks, modes, ranks[1:], strict=False)]
    return [0.5 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def put(weights, name, modes, rank, seed, *, bias=0, dtype=torch.float64):
    for i, factor in enumerate(factors(modes, rank, seed, dtype)):
        weights[f"{ROOT}{name}.layer.tensor.factors.{i}"] = factor
    if bias:
        weights[f"{ROOT}{name}.layer.bias"] = torch.linspace(-0.3, 0.4, bias, dtype=dtype)


def dense(weights, name, cols):
    """Theirs: the chain contracted, then reshaped to (in, out)."""
    prefix = f"{ROOT}{name}.layer.tensor.factors."
    chain = [weights[f"{prefix}{i}"] for i in range(sum(key.startswith(prefix) for key in weights))]
    whole = chain[0]
    for core in chain[1:]:
        whole = torch.tensordot(whole, core, dims=([-1], [0]))
    return whole.reshape(-1, cols)


def write(folder, settings, weights):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.save(weights, folder / "adapter_model.bin")
    return folder


def head(weights, dtype=torch.float64):
    weights[f"{ROOT}classifier.weight"] = torch.linspace(-1, 1, 3 * 48, dtype=dtype).reshape(3, 48)
    weights[f"{ROOT}classifier.bias"] = torch.tensor([0.1, -0.2, 0.3], dtype=dtype)


def rep_checkpoint(a=(6, 8, 8), b=(8, 8, 6), rank=3):
    weights = {}
    for i, name in enumerate(QUERIES):
        put(weights, f"{name}.lora_A", a, rank, 2 * i)
        put(weights, f"{name}.lora_B", b, rank, 2 * i + 1)
    head(weights)
    return weights


def with_head(model, weights):
    if f"{ROOT}classifier.weight" in weights:
        model.classifier.weight.data = weights[f"{ROOT}classifier.weight"]
        model.classifier.bias.data = weights[f"{ROOT}classifier.bias"]
    return model


def rep_by_hand(weights, scale):
    model = with_head(bert(torch.float64), weights)
    for name in QUERIES:
        a, b = dense(weights, f"{name}.lora_A", 8), dense(weights, f"{name}.lora_B", 48)
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, a=a, b=b: out + scale * (args[0] @ (a @ b))
        )
    return model(tokens()).logits


def loaded(adapter, folder, make=bert):
    adapter.save(folder)
    return PeftModel.from_pretrained(make(torch.float64), folder).eval()


def test_a_rep_is_the_same_function(tmp_path):
    weights = rep_checkpoint()
    adapter = import_reference(write(tmp_path / "theirs", REP, weights))
    model = loaded(adapter, tmp_path / "ours")
    torch.testing.assert_close(model(tokens()).logits, rep_by_hand(weights, 2.0), rtol=1e-11, atol=1e-12)
    assert type(adapter.config) is LorettaRepConfig
    assert (adapter.config.r, adapter.config.alpha, adapter.config.dropout) == (8, 16, 0.05)
    assert adapter.config.tensor_shape == {"48x8": [6, 8, 8], "8x48": [8, 8, 6]}
    assert adapter.config.tensor_rank_pattern == {}
    assert adapter.redecomposed == ()
    assert [line.split(":")[0] for line in adapter.lost] == ["normalisation layers"]
    stored = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert stored.keys() == adapter.weights.keys()


def test_every_number_of_the_file_arrives(tmp_path):
    weights = rep_checkpoint()
    adapter = import_reference(write(tmp_path, REP, weights))
    before = torch.cat([tensor.ravel() for tensor in weights.values()]).sort().values
    assert torch.equal(torch.cat([tensor.ravel() for tensor in adapter.weights.values()]).sort().values, before)


@pytest.mark.parametrize("rank", [[2, 3], 9, 1])
def test_ranks_that_differ_from_the_setting_are_kept(rank, tmp_path):
    weights = rep_checkpoint(rank=rank)
    adapter = import_reference(write(tmp_path / "theirs", REP, weights))
    model = loaded(adapter, tmp_path / "ours")
    torch.testing.assert_close(model(tokens()).logits, rep_by_hand(weights, 2.0), rtol=1e-11, atol=1e-12)
    ranks = [rank] * 2 if isinstance(rank, int) else rank
    assert adapter.config.tensor_rank_pattern == {name: {"A": ranks, "B": ranks} for name in QUERIES}


@pytest.mark.parametrize("b", [(6, 8, 8), (12, 2, 16), (48, 8)])
def test_modes_that_do_not_split_are_decomposed_again(b, tmp_path):
    """8 rows are no product of leading modes of 6, 8, 8: the matrix is the same, over other modes."""
    weights = rep_checkpoint(b=b)
    adapter = import_reference(write(tmp_path / "theirs", REP, weights))
    model = loaded(adapter, tmp_path / "ours")
    torch.testing.assert_close(model(tokens()).logits, rep_by_hand(weights, 2.0), rtol=1e-10, atol=1e-11)
    assert adapter.redecomposed == tuple(f"{name}.lora_B" for name in QUERIES)
    assert math.prod(adapter.config.tensor_shape["8x48"]) == 384


@pytest.mark.parametrize(("b", "modes"), [((2, 16, 12), [2, 4, 4, 12]), ((48, 8), [8, 6, 8])])
def test_only_the_mode_over_the_boundary_is_split(b, modes, tmp_path):
    adapter = import_reference(write(tmp_path, REP, rep_checkpoint(b=b)))
    assert adapter.config.tensor_shape["8x48"] == modes
    for pattern in adapter.config.tensor_rank_pattern.values():
        assert max(pattern["B"]) <= 3 * max(modes[:2])
        assert pattern["A"] == [3, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype, tmp_path):
    weights = {key: tensor.to(dtype) for key, tensor in rep_checkpoint(b=(2, 16, 12)).items()}
    adapter = import_reference(write(tmp_path, REP, weights))
    assert {tensor.dtype for tensor in adapter.weights.values()} == {dtype}
    name, modes = f"{QUERIES[0]}.lora_B", adapter.config.tensor_shape["8x48"]
    ranks = [1, *adapter.config.tensor_rank_pattern[QUERIES[0]]["B"], 1]
    flat = adapter.weights[f"{ROOT}{QUERIES[0]}.loretta_rep_B.flat"].double()
    sizes = [a * mode * b for a, mode, b in zip(ranks, modes, ranks[1:], strict=False)]
    whole = torch.ones(1, 1, dtype=torch.float64)
    for core, left, right in zip(flat.split(sizes), ranks, ranks[1:], strict=False):
        whole = (whole @ core.reshape(left, -1)).reshape(-1, right)
    exact = dense({key: tensor.double() for key, tensor in weights.items()}, name, 48)
    error = (whole.reshape(8, 48) - exact).norm() / exact.norm()
    assert error < 8 * torch.finfo(dtype).eps


def test_two_shapes_of_one_size_become_one(tmp_path):
    weights = rep_checkpoint()
    for key in [key for key in weights if key.startswith(f"{ROOT}{QUERIES[1]}.lora_A.")]:
        del weights[key]
    put(weights, f"{QUERIES[1]}.lora_A", (4, 4, 3, 8), 2, 9)
    adapter = import_reference(write(tmp_path / "theirs", REP, weights))
    model = loaded(adapter, tmp_path / "ours")
    torch.testing.assert_close(model(tokens()).logits, rep_by_hand(weights, 2.0), rtol=1e-10, atol=1e-11)
    assert adapter.redecomposed == (f"{QUERIES[1]}.lora_A",)


def adp_checkpoint(names, width):
    weights = {}
    for i, name in enumerate(names):
        put(weights, f"{name}.adapter_down", (6, width // 6, 16), 3, 2 * i, bias=16)
        put(weights, f"{name}.adapter_up", (16, width // 6, 6), 3, 2 * i + 1, bias=width)
    return weights


def bottleneck_by_hand(weights, name, scale):
    down, up = dense(weights, f"{name}.adapter_down", 16), dense(weights, f"{name}.adapter_up", 48)
    b, c = (weights[f"{ROOT}{name}.adapter_{side}.layer.bias"] for side in ("down", "up"))
    return lambda h: h + scale * (relu(h @ down + b) @ up + c)


def test_an_adp_is_the_same_function(tmp_path):
    weights = adp_checkpoint(OUTPUTS, 48)
    head(weights)
    adapter = import_reference(write(tmp_path / "theirs", ADP, weights))
    model = loaded(adapter, tmp_path / "ours")
    base = with_head(bert(torch.float64), weights)
    for name in OUTPUTS:
        adapt = bottleneck_by_hand(weights, name, 0.5)
        base.get_submodule(name).register_forward_hook(lambda _, __, out, adapt=adapt: adapt(out))
    torch.testing.assert_close(model(tokens()).logits, base(tokens()).logits, rtol=1e-11, atol=1e-12)
    assert type(adapter.config) is LorettaAdpConfig
    assert adapter.config.placement == "output"


def test_llama_is_adapted_on_both_sides(tmp_path):
    front, back = "model.layers.0.mlp.gate_proj", "model.layers.1.mlp.down_proj"
    weights = adp_checkpoint([front, back], 48)
    settings = {**ADP, "task_type": "CAUSAL_LM", "target_modules": ["gate_proj", "down_proj"]}
    model = loaded(import_reference(write(tmp_path / "theirs", settings, weights)), tmp_path / "ours", llama)
    base = llama(torch.float64)
    before, after = (bottleneck_by_hand(weights, name, 0.5) for name in (front, back))
    base.get_submodule(front).register_forward_pre_hook(lambda _, args: (before(args[0]),))
    base.get_submodule(back).register_forward_hook(lambda _, __, out: after(out))
    torch.testing.assert_close(model(tokens()).logits, base(tokens()).logits, rtol=1e-11, atol=1e-12)
    assert model.peft_config["default"].placement == {"gate_proj": "input"}


def roberta(dtype):
    torch.manual_seed(1)
    config = RobertaConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
                           vocab_size=50, num_labels=3, max_position_embeddings=20)  # fmt: skip
    return RobertaForSequenceClassification(config).to(dtype).eval()


def test_robertas_tensorised_classifier_comes_along(tmp_path):
    name = "roberta.encoder.layer.0.attention.self.query"
    weights = {
        f"{ROOT}classifier.out_proj.weight": torch.ones(3, 48, dtype=torch.float64).cumsum(0),
        f"{ROOT}classifier.out_proj.bias": torch.ones(3, dtype=torch.float64),
    }
    put(weights, f"{name}.lora_A", (6, 8, 8), 3, 0)
    put(weights, f"{name}.lora_B", (8, 8, 6), 3, 1)
    put(weights, "classifier.dense", (6, 8, 8, 6), [2, 4, 3], 2, bias=48)
    adapter = import_reference(write(tmp_path / "theirs", {**REP, "tensor_rank": 3}, weights))
    model = loaded(adapter, tmp_path / "ours", roberta)
    base = roberta(torch.float64)
    base.classifier.dense.weight.data = dense(weights, "classifier.dense", 48).T
    base.classifier.dense.bias.data = weights[f"{ROOT}classifier.dense.layer.bias"]
    base.classifier.out_proj.weight.data = weights[f"{ROOT}classifier.out_proj.weight"]
    base.classifier.out_proj.bias.data = weights[f"{ROOT}classifier.out_proj.bias"]
    update = dense(weights, f"{name}.lora_A", 8) @ dense(weights, f"{name}.lora_B", 48)
    base.get_submodule(name).weight.data += 2 * update.T
    torch.testing.assert_close(model(tokens()).logits, base(tokens()).logits, rtol=1e-11, atol=1e-12)
    assert adapter.config.tensor_rank_pattern == {"classifier.dense": {"tensorized": [2, 4, 3]}}


def test_what_is_lost_is_named(tmp_path):
    weights = {key.replace("bert.", "deberta."): tensor for key, tensor in rep_checkpoint().items()}
    lost = import_reference(write(tmp_path, REP, weights)).lost
    assert [line.split(":")[0] for line in lost] == ["normalisation layers", "pooler.dense"]
    headless = {key: tensor for key, tensor in rep_checkpoint().items() if "classifier" not in key}
    lost = import_reference(write(tmp_path, REP, headless)).lost
    assert [line.split(":")[0] for line in lost] == ["normalisation layers", "the classification head"]
    assert len(import_reference(write(tmp_path, {**REP, "task_type": "CAUSAL_LM"}, headless)).lost) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**REP, "enable_lora": [True, False, True]}, r"enable_lora=\[True, False, True\] \(a MergedLinear"),
        ({**REP, "bias": "lora_only"}, "bias='lora_only'"),
        ({**ADP, "use_parallel_adapter": True}, "use_parallel_adapter=True"),
        ({**ADP, "use_adapterp": True}, "use_adapterp=True"),
        ({**ADP, "scaling": "learned"}, "scaling='learned'"),
    ],
)
def test_other_functions_are_refused(settings, message, tmp_path):
    with pytest.raises(NotImplementedError, match=message):
        import_reference(write(tmp_path, settings, rep_checkpoint()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**REP, "peft_type": "IA3"}, "has peft_type 'IA3'"),
        ({name: value for name, value in REP.items() if name != "tensor_rank"}, "has no tensor_rank"),
        ([1], "has peft_type None"),
    ],
)
def test_other_configurations_are_refused(settings, message, tmp_path):
    with pytest.raises(TTFileError, match=message):
        import_reference(write(tmp_path, settings, rep_checkpoint()))


def test_damaged_settings_are_refused(tmp_path):
    with pytest.raises(TTFileError, match="cannot be read"):
        import_reference(tmp_path)
    folder = write(tmp_path, REP, rep_checkpoint())
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(TTFileError, match="cannot be read"):
        import_reference(folder)


def damaged(change):
    weights = rep_checkpoint()
    first = f"{ROOT}{QUERIES[0]}.lora_A.layer.tensor.factors."
    change(weights, first)
    return weights


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w, n: w.pop(n + "0"), TTFileError, r"the factors \[1, 2\]; all from 0 to 2"),
        (lambda w, n: w.update({n + "1": w[n + "1"][:2]}), ShapeError, "has factors of shapes"),
        (lambda w, n: w.update({n + "0": w[n + "0"][0]}), ShapeError, "has factors of shapes"),
        (lambda w, n: w.update({n + "2": torch.ones(3, 8, 2)}), ShapeError, "has factors of shapes"),
        (lambda w, n: w.update({n + "1": w[n + "1"].int()}), ShapeError, "has factors of shapes"),
        (lambda w, n: w[n + "1"].fill_(math.nan), NonFiniteError, "NaN or infinity"),
        (lambda w, n: w.update({n + "2": w[n + "2"][:, :7]}), ShapeError, "336 entries, which make no matrix"),
    ],
)
def test_damaged_factors_are_refused(change, error, message, tmp_path):
    weights = damaged(change)
    settings = {**REP, "r": 5} if "make no matrix" in message else REP
    with pytest.raises(error, match=message):
        import_reference(write(tmp_path, settings, weights))


def test_weights_of_another_kind_are_refused(tmp_path):
    with pytest.raises(TTFileError, match="holds no tensor trains"):
        import_reference(write(tmp_path, REP, {"base_model.model.query.lora_A.weight": torch.ones(8, 48)}))
    weights = adp_checkpoint(OUTPUTS, 48)
    del weights[f"{ROOT}{OUTPUTS[0]}.adapter_up.layer.bias"]
    with pytest.raises(TTFileError, match="has no bias in the file"):
        import_reference(write(tmp_path, ADP, weights))
    for broken in ({"tensor_rank": -1}, {"r": "8"}):
        with pytest.raises((ShapeError, TypeError), match=f"{next(iter(broken))} must be"):
            import_reference(write(tmp_path, {**REP, **broken}, rep_checkpoint()))


WHEEL = """
import sys, loretta, torch
from transformers import BertConfig, BertForSequenceClassification
folder, method = sys.argv[1:]
torch.manual_seed(0)
base = BertForSequenceClassification(BertConfig(
    hidden_size=768, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=50, num_labels=3
)).eval()
torch.save(base.state_dict(), folder + "/base.pt")
common = {"bias": "none", "task_type": "SEQ_CLS", "tensor_rank": 5}
config = {
    "rep": lambda: loretta.LorettaRepConfig(
        r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.05, **common
    ),
    "adp": lambda: loretta.LorettaAdpConfig(
        bottleneck_size=64, non_linearity="relu", adapter_dropout=0.0, scaling=1.0,
        target_modules=r".*\\.output\\.dense", **common
    ),
}[method]()
model = loretta.get_peft_model(base, config)
model.eval()
model.save_pretrained(folder)
with torch.no_grad():
    torch.save(model(torch.arange(21).reshape(3, 7)).logits, folder + "/logits.pt")
"""


@pytest.mark.skipif(importlib.util.find_spec("loretta") is None, reason="the reference wheel is not installed")
@pytest.mark.parametrize("method", ["rep", "adp"])
def test_the_wheel_itself_agrees(method, tmp_path):
    subprocess.run([sys.executable, "-c", WHEEL, str(tmp_path), method], check=True, capture_output=True)
    base = BertForSequenceClassification(
        BertConfig(
            hidden_size=768,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=64,
            vocab_size=50,
            num_labels=3,
        )
    )
    base.load_state_dict(torch.load(tmp_path / "base.pt"))
    import_reference(tmp_path).save(tmp_path / "ours")
    model = PeftModel.from_pretrained(base, tmp_path / "ours").eval()
    theirs = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(model(torch.arange(21).reshape(3, 7)).logits, theirs, rtol=1e-4, atol=1e-5)
