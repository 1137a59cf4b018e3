"""Models of the architectures that PEFT's tests name on the hub, tiny and random, laid out as the hub's cache on disk.

The hub's own code finds them there, offline, under their names.  No tokenizer: no test that has our rows reads text.
"""

from pathlib import Path

import torch
import transformers
from peft import LoraConfig
from transformers import (
    BartConfig,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    RobertaConfig,
    T5Config,
)

_ENCODER = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_OPT = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GPT = {
    "vocab_size": 1000,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# Name on the hub: class of the model, its configuration.
MODELS: dict[str, tuple[str, PretrainedConfig]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", OPTConfig(**_OPT)),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", GPT2Config(**_GPT)),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", GPTJConfig(**_GPT, rotary_dim=4)),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", LlamaConfig(**_DECODER)),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", Qwen2Config(**_DECODER)),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "Gemma3ForCausalLM",
        Gemma3TextConfig(**_DECODER, head_dim=8, sliding_window=16),
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5ForConditionalGeneration",
        T5Config(vocab_size=1000, d_model=32, d_kv=8, d_ff=37, num_layers=3, num_heads=4, decoder_start_token_id=0),
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "BartForConditionalGeneration",
        BartConfig(
            vocab_size=1000,
            d_model=32,
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=37,
            decoder_ffn_dim=37,
            max_position_embeddings=128,
        ),
    ),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", BertConfig(**_ENCODER)),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", RobertaConfig(**_ENCODER)),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", DebertaConfig(**_ENCODER)),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", DebertaV2Config(**_ENCODER)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertForSequenceClassification",
        BertConfig(**_ENCODER),
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        RobertaConfig(**_ENCODER),
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaForSequenceClassification",
        LlamaConfig(**_DECODER),
    ),
    # twelve layers, which the quantisation tests count; the width is a multiple of a quantised block
    "peft-internal-testing/opt-125m": (
        "OPTForCausalLM",
        OPTConfig(**{**_OPT, "num_hidden_layers": 12, "hidden_size": 64, "word_embed_proj_dim": 64}),
    ),
}


def build(hub: Path) -> None:
    """Write what is missing into *hub*, a folder laid out as HF_HUB_CACHE."""
    revision = f"transformers-{transformers.__version__}"
    for name, (architecture, config) in MODELS.items():
        snapshot = _snapshot(hub, name, revision)
        if not (snapshot / "model.safetensors").exists():
            torch.manual_seed(0)
            getattr(transformers, architecture)(config).save_pretrained(snapshot)
    # test_config reads an adapter of any method, at a revision of its own
    LoraConfig().save_pretrained(
        _snapshot(hub, "peft-internal-testing/tiny-opt-lora-revision", revision, branch="test")
    )


def _snapshot(hub: Path, name: str, revision: str, *, branch: str = "main") -> Path:
    """Point a branch at a revision, as the cache does, and return the folder of the revision's files."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / branch).write_text(revision)
    return repository / "snapshots" / revision
