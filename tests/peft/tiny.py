"""Tiny random models of real architectures, the same weights each time."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

VOCABULARY = 50


def bert(dtype=torch.float32, hidden=48):
    torch.manual_seed(1)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        vocab_size=VOCABULARY,
        num_labels=3,
    )
    return BertForSequenceClassification(config).to(dtype).eval()


def llama(dtype=torch.float32):
    """With grouped queries (v_proj is 48 x 24) and an odd feed-forward size."""
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=101,
        vocab_size=VOCABULARY,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def gpt2(dtype=torch.float32):
    """Its linear layers are Conv1D, with (in, out) weights."""
    torch.manual_seed(1)
    config = GPT2Config(
        n_embd=48, n_layer=2, n_head=4, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, n_positions=32
    )
    return GPT2LMHeadModel(config).to(dtype).eval()


MODELS = {"bert": (bert, "SEQ_CLS"), "llama": (llama, "CAUSAL_LM"), "gpt2": (gpt2, "CAUSAL_LM")}


def tokens():
    return torch.randint(0, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))


def checkpointed(model, *, use_reentrant):
    """Switch activation checkpointing on, under the name that this release of transformers gives it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    return model


def shake(model, scale=0.1):
    """Move every trainable parameter, as training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * noise.to(parameter.dtype))
    return model
