"""The pretrained model under every method: located, checked, and built afresh with the same head each time."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from ttlib_peft.finetune.embedded import EMBEDDED_MODELS, embedded_model_folder
from ttlib_peft.finetune.settings import FinetuneError, FinetuneSettings


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model that is known to exist and to fit the settings; `build` makes fresh copies of it."""

    name: str  # what from_pretrained takes: a folder or a hub name
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    seed: int

    def build(self) -> PreTrainedModel:
        """A fresh model whose new head is drawn from the seed: every method of a run starts from the same head."""
        set_seed(self.seed)
        with no_transformers_bars(), no_report_of_new_weights():
            model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
                self.name, config=copy.deepcopy(self.config), dtype=self.dtype
            )
        return model

    def skeleton(self) -> PreTrainedModel:
        """The model's modules without memory behind their weights: enough to ask for names and shapes."""
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(self.config)
        return model


@contextmanager
def no_transformers_bars() -> Iterator[None]:
    """Switch transformers' own progress bars off, e.g. the one for every file of a checkpoint; restore them."""
    were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            transformers_logging.enable_progress_bar()


@contextmanager
def no_report_of_new_weights() -> Iterator[None]:
    """Keep transformers from warning that the head is newly initialised: that is what is wanted here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def locate_base_model(settings: FinetuneSettings, label_names: tuple[str, ...]) -> BaseModel:
    """Find and check the model that `settings` name, reading its config and tokenizer but not its weights."""
    name = _resolve(settings.model)
    config = _load_config(name, label_names)
    tokenizer = _load_tokenizer(name)
    if tokenizer.pad_token is None:  # decoders come without one; the head then reads the last real token
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    _check_length(settings.max_length, config, tokenizer)
    return BaseModel(name, config, tokenizer, getattr(torch, settings.dtype), settings.seed)


def _resolve(model: str) -> str:
    """The folder or hub name behind `--model`, after the checks that need no library."""
    if model in EMBEDDED_MODELS:
        return str(embedded_model_folder(model))
    path = Path(model).expanduser()
    if not path.exists():
        if model.startswith(("/", ".", "~")) or model.count("/") > 1:
            msg = f"model {model} not found; give a model folder, a hub name or {_embedded_names()}"
            raise FinetuneError(msg)
        return model
    file = path / "config.json"
    if not file.is_file():
        msg = (
            f"model {model} has no config.json; give a folder that save_pretrained wrote, a hub name or "
            f"{_embedded_names()}"
        )
        raise FinetuneError(msg)
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{file} is no JSON ({error}); save the model again"
        raise FinetuneError(msg) from error
    return str(path)


def _load_config(name: str, label_names: tuple[str, ...]) -> PretrainedConfig:
    """The model's config with the task's labels in it, if transformers has a classifier for its type."""
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        msg = (
            f"model {name!r} cannot be loaded: {_one_line(error)}. Give a model folder, a hub name that can"
            f" be reached or {_embedded_names()}"
        )
        raise FinetuneError(msg) from error
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        msg = (
            f"model {name!r} is of type {config.model_type!r}, for which transformers has no sequence"
            " classifier; give another model"
        )
        raise FinetuneError(msg)
    config.num_labels = len(label_names)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {label: number for number, label in enumerate(label_names)}
    # A config may carry the task of an earlier fine-tuning (say regression), which would choose the wrong loss.
    config.problem_type = "single_label_classification"
    return config


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    fact = f"model {name!r} has no tokenizer that loads"
    remedy = "save its tokenizer into its folder"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # a missing file, a missing package or a broken file, each its own type
        msg = f"{fact}: {_one_line(error)}; {remedy}"
        raise FinetuneError(msg) from error
    # Without its files transformers makes a tokenizer that turns every word into "unknown", and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        msg = f"{fact}: there are {len(tokenizer)} tokens in it, all of them special; {remedy}"
        raise FinetuneError(msg)
    return tokenizer


def _check_length(max_length: int, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    positions = getattr(config, "max_position_embeddings", None)
    limit = min(int(tokenizer.model_max_length), tokenizer.model_max_length if positions is None else positions)
    if max_length > limit:
        msg = f"max_length {max_length} is more than the {limit} tokens the model reads; lower it"
        raise FinetuneError(msg)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _embedded_names() -> str:
    return "the embedded " + ", ".join(EMBEDDED_MODELS)
