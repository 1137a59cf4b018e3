"""Which modules each architecture adapts when the user does not say."""

from __future__ import annotations

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING


def is_called(name: str, suffix: str) -> bool:
    """Tell whether a module's name is *suffix*, or ends in it after a dot, as PEFT matches names in a list.

    >>> is_called("layer.0.output.dense", "output.dense"), is_called("layer.0.condense", "dense")
    (True, False)
    """
    return f".{name}".endswith(f".{suffix}")


# LoRETTA_rep is a re-parameterised LoRA (paper, section 3.3): PEFT's own table for LoRA is its table too, and
# stays in step with the architectures PEFT learns.
REP_TARGET_MODULES = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

# Families whose blocks name their layers alike: the last linear of the attention and of the feed-forward block, after
# which LoRETTA_adp comes ("following each attention and feed-forward sub-layer", section 3.2), and the first linears of
# the feed-forward block, before which it comes with placement="input".
_FAMILIES: list[tuple[list[str], list[str], list[str]]] = [
    (  # attention.output.dense and output.dense
        ["bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "electra", "camembert", "deberta", "deberta-v2", "mpnet",
         "layoutlm", "vit", "deit", "beit"],
        ["output.dense"],
        ["intermediate.dense"],
    ),
    (
        ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "cohere",
         "granite", "smollm3", "stablelm"],
        ["o_proj", "down_proj"],
        ["gate_proj", "up_proj"],
    ),
    (["phi3"], ["o_proj", "down_proj"], ["gate_up_proj"]),
    (["starcoder2"], ["o_proj", "c_proj"], ["c_fc"]),
    (["bart", "mbart", "opt", "whisper", "blenderbot", "pegasus", "marian"], ["out_proj", "fc2"], ["fc1"]),
    (
        ["bloom", "falcon", "RefinedWeb", "RefinedWebModel"],
        ["self_attention.dense", "dense_4h_to_h"],
        ["dense_h_to_4h"],
    ),
    (["t5", "mt5", "umt5"], ["o", "wo"], ["wi", "wi_0", "wi_1"]),
    (["albert"], ["attention.dense", "ffn_output"], ["ffn"]),
    (["distilbert"], ["out_lin", "lin2"], ["lin1"]),
    (["gpt2"], ["attn.c_proj", "mlp.c_proj"], ["mlp.c_fc"]),
    (["gpt_neox"], ["attention.dense", "dense_4h_to_h"], ["dense_h_to_4h"]),
    (["gptj"], ["out_proj", "fc_out"], ["fc_in"]),
    (["gpt_neo"], ["out_proj", "c_proj"], ["c_fc"]),
    (["phi"], ["dense", "fc2"], ["fc1"]),
]  # fmt: skip

ADP_TARGET_MODULES: dict[str, list[str]] = {
    architecture: after for architectures, after, _ in _FAMILIES for architecture in architectures
}
ADP_INPUT_TARGET_MODULES: dict[str, list[str]] = {
    architecture: before for architectures, _, before in _FAMILIES for architecture in architectures
}
