"""Adapters of seven architectures come back from disk with bit-identical logits, in and out of training."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    RobertaConfig,
)

from tests.peft.tiny import VOCABULARY, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

BERT_LIKE = {"bert": BertConfig, "roberta": RobertaConfig, "deberta-v2": DebertaV2Config}
LLAMA_LIKE = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
ARCHITECTURES = [*BERT_LIKE, *LLAMA_LIKE, "gpt2", "opt"]


def build(architecture, heads, per_head, layers, feed_forward):
    """A random model of the architecture: (model, task)."""
    torch.manual_seed(3)
    hidden = 2 * heads * per_head
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    usual = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2 * heads}
    if architecture in BERT_LIKE:
        config = BERT_LIKE[architecture](**usual, intermediate_size=feed_forward, num_labels=3, **common)
        return AutoModelForSequenceClassification.from_config(config).eval(), "SEQ_CLS"
    if architecture in LLAMA_LIKE:  # with grouped queries
        config = LLAMA_LIKE[architecture](**usual, num_key_value_heads=heads, intermediate_size=feed_forward, **common)
    elif architecture == "gpt2":
        config = GPT2Config(n_embd=hidden, n_layer=layers, n_head=2 * heads, n_inner=feed_forward, **common)
    else:
        config = OPTConfig(**usual, ffn_dim=feed_forward, word_embed_proj_dim=hidden, **common)
    return AutoModelForCausalLM.from_config(config).eval(), "CAUSAL_LM"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("config_class", [LorettaRepConfig, LorettaAdpConfig])
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    heads=st.integers(1, 2),
    per_head=st.sampled_from([4, 6, 10]),
    layers=st.integers(1, 2),
    feed_forward=st.integers(16, 70),
    tensor_rank=st.integers(1, 6),
    scheme=st.sampled_from(["residual", "zero", "gaussian", "paper-mean", "spectral"]),
    train_norms=st.booleans(),
)
def test_round_trips_are_bit_identical(
    tmp_path_factory,
    architecture,
    config_class,
    heads,
    per_head,
    layers,
    feed_forward,
    tensor_rank,
    scheme,
    train_norms,
):
    folder = tmp_path_factory.mktemp("adapter")
    shape = architecture, heads, per_head, layers, feed_forward
    base, task = build(*shape)
    before = base(tokens()).logits
    config = config_class(tensor_rank=tensor_rank, init_weights=scheme, train_norms=train_norms, task_type=task)
    model = get_peft_model(base, config).eval()
    assert torch.equal(model(tokens()).logits, before) == (scheme in ("residual", "zero", "spectral"))
    expected = shake(model)(tokens()).logits
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(build(*shape)[0], folder)
    assert torch.equal(loaded(tokens()).logits, expected)
