"""Every method: what it trains by formulas of its own, where it starts, and what it refuses."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.paper import models
from benchmarks.paper.cells import options
from benchmarks.paper.methods import METHODS, DenseAdapter, MethodError, count_parameters, make_trainable
from ttlib_peft import trainable_parameters

WIDTH, LAYERS, INNER, LABELS = 32, 2, 64, 3  # of the tiny models
LAST, BEFORE_LAST = LABELS * (WIDTH + 1), WIDTH * (WIDTH + 1)
HEAD = LAST + BEFORE_LAST
SUBSETS = ("full", "bitfit", "head", "norms-head")
TOKENS = ("prefix", "prompt", "p-tuning")  # they change the output from the start
OURS = ("loretta-rep", "loretta-adp", "tt-lora", "meta-tt")
NO_BIASES = ("bitfit", "head")  # a LLaMA has no biases, and its head stays as it is


def _tiny(kind, auto=AutoModelForSequenceClassification, labels=LABELS):
    """A model of any type that is small enough for hundreds of tests."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": INNER}
    others = {"vocab_size": 99, "pad_token_id": 1, "num_labels": labels, "max_position_embeddings": 64}
    return auto.from_config(AutoConfig.for_model(kind, **sizes, **others))


def _base(name, labels=LABELS):
    return _tiny("bert", labels=labels) if name == "bert" else _tiny("llama", AutoModelForCausalLM)


CASES = [
    (name, method) for name in ("bert", "llama") for method in METHODS if not (name == "llama" and method in NO_BIASES)
]


def _batch(rows=2, length=9):
    ids = torch.randint(5, 99, (rows, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _logits(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


def _train(modes, rank):
    """Numbers of a tensor train of these modes; a bond is no wider than what is left or right of it."""
    bonds = [min(rank, math.prod(modes[:i]), math.prod(modes[i:])) for i in range(len(modes) + 1)]
    return sum(a * n * b for a, n, b in zip(bonds[:-1], modes, bonds[1:], strict=True))


def _trains(model, *sizes):
    config = model.peft_config["default"]
    return sum(_train(config.tensor_shape[size], config.tensor_rank) for size in sizes)


def _adapters(model, method, name):
    """The numbers that a method adds, by hand."""
    down, up = 64 * WIDTH + 64, WIDTH * 64 + WIDTH
    ia3 = LAYERS * (2 * WIDTH + INNER) if name == "llama" else LAYERS * (3 * WIDTH + INNER)
    formulas = {
        "lora-8": lambda: 2 * LAYERS * 8 * 2 * WIDTH,
        "lora-4": lambda: 2 * LAYERS * 4 * 2 * WIDTH,
        "adapters-64": lambda: 2 * LAYERS * (down + up),
        "adapters-8": lambda: 2 * LAYERS * (2 * 8 * WIDTH + 8 + WIDTH),
        "ia3": lambda: ia3,
        "prefix": lambda: 8 * LAYERS * 2 * WIDTH,
        "prompt": lambda: 10 * WIDTH,
        "p-tuning": lambda: 20 * WIDTH + (WIDTH + 1) * 128 + 129 * 128 + 129 * WIDTH,
        "loretta-rep": lambda: 2 * LAYERS * _trains(model, "32x8", "8x32"),
        "loretta-adp": lambda: 2 * LAYERS * (_trains(model, "32x64", "64x32") + 64 + WIDTH),
        "tt-lora": lambda: 2 * LAYERS * _trains(model, "32x32"),
        "meta-tt": lambda: 2 * WIDTH * 8 + (LAYERS + 2) * 64,
    }
    return formulas[method]() if method in formulas else 0


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case[1] not in SUBSETS])
def test_adapters_have_as_many_numbers_as_their_formulas(name, method):
    model = make_trainable(_base(name), method, seed=0)
    norms = {"bert": (2 * LAYERS + 1) * 2 * WIDTH, "llama": (2 * LAYERS + 1) * WIDTH}[name]
    expected = {
        "adapters": _adapters(model, method, name),
        "norms": norms if method.startswith("loretta") else 0,
        "head": HEAD if name == "bert" else 0,
        "body": 0,
    }
    assert count_parameters(model) == {**expected, "total": sum(expected.values())}


def test_subsets_have_as_many_numbers_as_their_formulas():
    norms = (2 * LAYERS + 1) * 2 * WIDTH
    base = _base("bert")
    whole = base.num_parameters()
    # query, key, value, two dense layers of WIDTH outputs and one of INNER
    biases = LAYERS * (5 * WIDTH + INNER)
    expected = {
        "full": {"norms": norms, "head": HEAD, "body": whole - norms - HEAD, "total": whole},
        "bitfit": {"norms": norms // 2, "head": HEAD, "body": biases},
        "head": {"head": HEAD},
        "norms-head": {"norms": norms, "head": HEAD},
    }
    for method, own in expected.items():
        counts = count_parameters(make_trainable(_base("bert"), method, seed=0))
        total = own.pop("total", sum(own.values()))
        assert counts == {"adapters": 0, "norms": 0, "head": 0, "body": 0, **own, "total": total}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_start_is_the_pretrained_model_unless_tokens_are_added(name, method):
    batch = _batch()
    before = _logits(_base(name), batch)
    after = _logits(make_trainable(_base(name), method, seed=0), batch)
    if method in TOKENS:
        assert (after[:, -1] - before[:, -1]).abs().max() > 1e-3
    else:
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_step_changes_what_is_trained_and_nothing_else(name, method):
    model = make_trainable(_base(name), method, seed=0).train()
    before = copy.deepcopy(model.state_dict())
    batch = _batch()
    labels = torch.tensor([0, 2]) if name == "bert" else batch["input_ids"]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0)
    for _ in range(2):  # at the first step one half of LoRA has no gradient yet
        optimiser.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
    unmoved = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert not unmoved & trained.keys()
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} <= unmoved


@pytest.mark.parametrize(("name", "method"), CASES)
def test_what_is_added_follows_from_the_seed(name, method):
    def trained(seed):
        model = make_trainable(_base(name), method, seed=seed)
        return [parameter.clone() for parameter in model.parameters() if parameter.requires_grad]

    first, again, other = trained(3), trained(3), trained(4)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, other)) == (method in (*SUBSETS, "ia3"))  # they draw nothing


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
@pytest.mark.parametrize("method", ["lora-8", "prompt", "adapters-8", "bitfit", "norms-head", "loretta-rep", "meta-tt"])
def test_all_methods_train_the_same_head_and_norms(kind, method):
    base = _tiny(kind)
    own = sum(p.numel() for m in base.modules() if "LayerNorm" in type(m).__name__ for p in m.parameters())
    for head, size in {"classifier": LAST, "dense": HEAD, "frozen": 0}.items():
        for norms in (True, False):
            if (method, head, norms) == ("norms-head", "frozen", False):
                continue  # nothing would be left
            model = make_trainable(copy.deepcopy(base), method, seed=0, head=head, train_norms=norms)
            counts = count_parameters(model)
            biases = method == "bitfit" and head != "dense"  # that of the layer before the last is a bias too
            assert counts["head"] == size + biases * WIDTH, (head, norms)
            assert counts["norms"] == (own if norms else own // 2 if method == "bitfit" else 0), (head, norms)
            assert counts["total"] == trainable_parameters(model)["total"]


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_a_tensor_train_head_is_a_train_beside_the_layer_before_the_last(kind, method):
    model = make_trainable(_tiny(kind), method, seed=0, head="tensor-train")
    config = model.peft_config["default"]
    train = _train(config.tensor_shape["32x32"], config.tensor_rank)
    assert count_parameters(model)["head"] == train + WIDTH + LAST


@pytest.mark.parametrize("method", ["lora-8", "loretta-rep", "loretta-adp", "tt-lora", "meta-tt", "prompt", "ia3"])
def test_counts_are_the_librarys_where_it_knows_the_method(method):
    model = make_trainable(_base("bert"), method, seed=0, head="classifier")
    assert count_parameters(model) == trainable_parameters(model)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in NO_BIASES])
def test_a_regression_is_trained_by_squared_errors(method):
    model = make_trainable(_base("bert", labels=1), method, seed=0).eval()
    labels = torch.tensor([0.3, -0.9])
    output = model(**_batch(), labels=labels)
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - labels) ** 2).mean())


@pytest.mark.parametrize("method", TOKENS)
def test_padding_is_not_seen_beside_virtual_tokens(method):
    model = make_trainable(_base("bert"), method, seed=0)
    row = _batch(rows=1)
    padded = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in row.items()}
    torch.testing.assert_close(_logits(model, row), _logits(model, padded))


@hypothesis_settings(max_examples=20)
@given(width=st.integers(1, 9), bottleneck=st.integers(1, 9), bias=st.booleans(), seed=st.integers(0, 9))
def test_a_dense_adapter_is_its_formula(width, bottleneck, bias, seed):
    torch.manual_seed(seed)
    adapter = DenseAdapter(width, bottleneck, bias=bias)
    h = torch.randn(3, width)
    assert torch.equal(adapter(h), h)
    state = {name: torch.randn_like(tensor) for name, tensor in adapter.state_dict().items()}
    adapter.load_state_dict(state)
    inner = (h @ state["down.weight"].T + state.get("down.bias", 0)).clamp(min=0)
    torch.testing.assert_close(adapter(h), h + inner @ state["up.weight"].T + state.get("up.bias", 0))


def test_dense_adapters_stand_before_or_after_the_layers_that_placement_names():
    placement = (("gate_proj", "input"), ("down_proj", "output"))
    model = make_trainable(_base("llama"), "adapters-8", seed=0, bias=False, placement=placement)
    gate, down = (model.get_submodule(f"model.layers.1.mlp.{name}") for name in ("gate_proj", "down_proj"))
    assert not hasattr(model.get_submodule("model.layers.1.mlp.up_proj"), "adapter")
    assert count_parameters(model)["total"] == LAYERS * 2 * 2 * 8 * WIDTH
    for layer in (gate, down):
        nn.init.normal_(layer.adapter.up.weight)
    x, y = torch.randn(3, WIDTH), torch.randn(3, INNER)
    torch.testing.assert_close(gate(x), gate.adapter(x) @ gate.weight.T)
    torch.testing.assert_close(down(y), down.adapter(y @ down.weight.T))


DEBERTA, ROBERTA, LLAMA = "deberta-base", "roberta-base", "llama-2-7b"
AS_IN_LLAMA = (("gate_proj", "input"), ("up_proj", "input"), ("down_proj", "output"))
PAPER = [
    # Table 1; the numbers are those of the paper's code, counted by hand
    (DEBERTA, "full", {}, 139_193_858),
    (DEBERTA, "adapters-8", {"train_norms": True, "head": "dense"}, 12 * 2 * (2 * 8 * 768 + 776) + 38_400 + 592_130),
    (DEBERTA, "lora-8", {"head": "classifier"}, 294_912 + 1_538),
    (DEBERTA, "lora-4", {"head": "classifier"}, 147_456 + 1_538),
    (DEBERTA, "prefix", {"head": "classifier"}, 147_456 + 1_538),
    (DEBERTA, "prompt", {"head": "classifier"}, 7_680 + 1_538),
    (DEBERTA, "p-tuning", {"head": "classifier"}, 229_376 + 1_538),
    (DEBERTA, "loretta-adp", {"preset": DEBERTA}, 99_034),
    (DEBERTA, "loretta-rep", {"preset": DEBERTA}, 54_068),
    (ROBERTA, "loretta-adp", {"preset": ROBERTA}, 101_914),
    (ROBERTA, "loretta-rep", {"preset": ROBERTA}, 67_928),
    # Table 2
    (LLAMA, "full", {}, 6_738_415_616),
    (LLAMA, "adapters-64", {"bias": False, "placement": AS_IN_LLAMA}, 50_331_648),
    (LLAMA, "lora-8", {}, 4_194_304),
    (LLAMA, "prefix", {"num_virtual_tokens": 5}, 1_310_720),
    (LLAMA, "ia3", {}, 614_400),
    (LLAMA, "loretta-adp", {"preset": LLAMA}, 876_800),
    (LLAMA, "loretta-rep", {"preset": LLAMA}, 507_904),
    # Tables 6, 7 and 11
    (DEBERTA, "loretta-adp", {"preset": DEBERTA, "rank": 2}, 67_762),
    (DEBERTA, "loretta-rep", {"preset": DEBERTA, "rank": 20}, 252_368),
    (DEBERTA, "loretta-adp", {"preset": DEBERTA, "shape": (64, 12, 64)}, 106_714),
    (DEBERTA, "loretta-adp", {"preset": DEBERTA, "head": "dense"}, 687_938),
    (DEBERTA, "loretta-adp", {"preset": DEBERTA, "head": "dense", "train_norms": False}, 649_538),
    (DEBERTA, "loretta-rep", {"preset": DEBERTA, "train_norms": False}, 15_668),
    (DEBERTA, "loretta-rep", {"preset": DEBERTA, "head": "frozen", "train_norms": False}, 13_980),
]


@pytest.mark.parametrize(("name", "method", "chosen", "parameters"), PAPER)
def test_counts_at_the_papers_sizes_are_the_papers(name, method, chosen, parameters):
    cell = dict(options(**chosen))
    skeleton = models.skeleton(name, labels=None if name == LLAMA else 2)
    model = make_trainable(skeleton, method, seed=0, **cell)
    assert count_parameters(model)["total"] == parameters
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_options_of_a_cell_reach_a_methods_configuration():
    shape = {"32x64": [4, 8, 8, 8], "64x32": [8, 8, 8, 4]}
    chosen = options(tensor_shape=tuple(shape.items()), tensor_rank=3, init_weights="zero", target_modules=("query",))
    model = make_trainable(_base("bert"), "loretta-adp", seed=0, **dict(chosen))
    assert isinstance(model, PeftModel)
    config = model.peft_config["default"]
    assert (config.tensor_shape, config.tensor_rank, config.init_weights) == (shape, 3, "zero")
    assert config.target_modules == {"query"}
    assert config.bottleneck == METHODS["loretta-adp"].options["bottleneck"]


@pytest.mark.parametrize(
    ("name", "method", "chosen", "message"),
    [
        ("bert", "lora", {}, "no method is called 'lora'; there are full, lora-8"),
        ("bert", "lora-8", {"tensor_rank": 5}, "lora-8 has no option 'tensor_rank'; it has .*r, "),
        ("bert", "head", {"r": 8}, "head has no option 'r'; it has none"),
        ("bert", "lora-8", {"preset": "deberta-base"}, "lora-8 has no option 'preset'"),
        ("bert", "loretta-rep", {"preset": "deberta-base", "tensor_rank": 5}, "no option 'tensor_rank'.* rank"),
        ("bert", "loretta-rep", {"head": "pooler"}, "head is 'pooler'; give one of classifier, dense"),
        ("llama", "lora-8", {"head": "dense"}, "'dense' is for classifiers, LlamaForCausalLM is a language model"),
        *[
            ("bert", method, {"head": "tensor-train"}, "only tensor-train methods have a head of tensor trains")
            for method in ("lora-8", "ia3", "prompt", "adapters-8", "bitfit", "norms-head")
        ],
        ("bert", "full", {"train_norms": True}, "trains norms and head anyway"),
        ("bert", "full", {"head": "frozen"}, "got train_norms=False and head='frozen'; leave them out"),
        ("bert", "head", {"head": "frozen"}, "head trains nothing of BertForSequenceClassification; leave it out"),
        ("llama", "head", {}, "head trains nothing of LlamaForCausalLM"),
        ("llama", "bitfit", {}, "bitfit trains nothing of LlamaForCausalLM"),
        ("bert", "adapters-8", {"placement": (("fc", "output"),)}, "has no linear layer called fc; name others"),
        (
            "bert",
            "adapters-8",
            {"placement": (("dense", "both"),)},
            "{'dense': 'both'}; give each .* input, output",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(name, method, chosen, message):
    with pytest.raises(MethodError, match=message):
        make_trainable(_base(name), method, seed=0, **chosen)


def test_a_head_of_one_layer_has_none_before_it():
    with pytest.raises(MethodError, match="LlamaForSequenceClassification has one layer after the encoder; give head"):
        make_trainable(_tiny("llama"), "lora-8", seed=0)
    assert (
        count_parameters(make_trainable(_tiny("llama"), "lora-8", seed=0, head="classifier"))["head"] == LABELS * WIDTH
    )


def test_all_that_tables_need_is_there():
    for name, method in METHODS.items():
        assert method.title, name
        assert method.options.keys() <= method.takes, name
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
