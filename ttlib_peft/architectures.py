"""Published model sizes, and models without memory behind their weights: counting needs neither hub nor checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

Task = Literal["SEQ_CLS", "CAUSAL_LM"]


class CountError(ValueError):
    """A request to count that cannot be carried out: the message holds the fact, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A published model: its type in transformers, what it is fine-tuned for, and the sizes in its config.json."""

    model_type: str
    task: Task
    sizes: Mapping[str, Any]


_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_DEBERTA = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def _decoder(hidden: int, feed_forward: int, layers: int, heads: int, *, groups: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        **others,
    }


ARCHITECTURES: Mapping[str, Architecture] = {
    "bert-base": Architecture("bert", "SEQ_CLS", {}),  # transformers' defaults are its sizes
    "bert-large": Architecture("bert", "SEQ_CLS", _LARGE),
    "roberta-base": Architecture("roberta", "SEQ_CLS", _ROBERTA),
    "roberta-large": Architecture("roberta", "SEQ_CLS", _ROBERTA | _LARGE),
    "deberta-base": Architecture("deberta", "SEQ_CLS", _DEBERTA | {"vocab_size": 50265}),
    "deberta-v3-base": Architecture(
        "deberta-v2",
        "SEQ_CLS",
        _DEBERTA
        | {"vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"intermediate_size": 3072, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True},
    ),
    "gpt2": Architecture("gpt2", "CAUSAL_LM", {}),
    "llama-2-7b": Architecture("llama", "CAUSAL_LM", _decoder(4096, 11008, 32, 32, groups=32)),
    "llama-2-13b": Architecture("llama", "CAUSAL_LM", _decoder(5120, 13824, 40, 40, groups=40)),
    "llama-2-70b": Architecture("llama", "CAUSAL_LM", _decoder(8192, 28672, 80, 64, groups=8)),
    "llama-3.1-8b": Architecture("llama", "CAUSAL_LM", _decoder(4096, 14336, 32, 32, groups=8, vocab_size=128256)),
    "llama-3.2-1b": Architecture(
        "llama",
        "CAUSAL_LM",
        _decoder(2048, 8192, 16, 32, groups=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True),
    ),
    "mistral-7b": Architecture("mistral", "CAUSAL_LM", _decoder(4096, 14336, 32, 32, groups=8)),
    "qwen2.5-7b": Architecture("qwen2", "CAUSAL_LM", _decoder(3584, 18944, 28, 28, groups=4, vocab_size=152064)),
}

_AUTO_MODELS = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}


def find_config(model: str) -> tuple[PretrainedConfig, Task]:
    """Return the configuration of a model and the task it is usually fine-tuned for.

    >>> config, task = find_config("llama-2-70b")
    >>> config.hidden_size, task
    (8192, 'CAUSAL_LM')

    *model* is a key of `ARCHITECTURES`, a folder with a config.json, such a file, or a name on the hub (the only case
    that needs a network).  Raises CountError when there is no such model, or its file is no configuration.
    """
    if model in ARCHITECTURES:
        known = ARCHITECTURES[model]
        return AutoConfig.for_model(known.model_type, **known.sizes), known.task
    try:
        config = AutoConfig.from_pretrained(str(Path(model).expanduser()) if Path(model).exists() else model)
    except (OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        msg = (
            f"model {model!r} has no configuration that loads: {reason}; give a folder with a config.json, a hub name "
            f"that can be reached, or one of {', '.join(ARCHITECTURES)}"
        )
        raise CountError(msg) from error
    return config, usual_task(config)


def usual_task(config: PretrainedConfig) -> Task:
    """Return the task that a model is usually fine-tuned for: what the model of its checkpoint does."""
    generates = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ())
    return "CAUSAL_LM" if generates else "SEQ_CLS"


def build_skeleton(config: PretrainedConfig, task: Task, *, labels: int | None = None) -> PreTrainedModel:
    """Return the model of a configuration on the meta device: all of its modules, none of its numbers.

    >>> model = build_skeleton(*find_config("llama-2-7b"))
    >>> sum(parameter.numel() for parameter in model.parameters())
    6738415616

    *labels* is the number of classes of a classifier, None for what the configuration says (2 where it does not).
    Raises CountError when transformers has no model of this type for the task.
    """
    auto = _AUTO_MODELS[task]
    if type(config) not in auto._model_mapping:
        other = next(name for name in _AUTO_MODELS if name != task)
        msg = f"transformers has no {task} model of type {config.model_type!r}; ask for task {other}"
        raise CountError(msg)
    own = copy.deepcopy(config)
    if task == "SEQ_CLS" and labels is not None:
        own.num_labels = labels
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(own)
    return model
