"""Which modules each architecture adapts when the user does not say."""

from __future__ import annotations

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

# LoRETTA_rep is a re-parameterised LoRA (paper, section 3.3): PEFT's own table for LoRA is its table too, and
# stays in step with the architectures PEFT learns.
REP_TARGET_MODULES = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

# LoRETTA_adp follows "each attention and feed-forward sub-layer" (section 3.2): the last linear of both.
_BERT_LIKE = ["output.dense"]  # attention.output.dense and output.dense
_LLAMA_LIKE = ["o_proj", "down_proj"]
_BART_LIKE = ["out_proj", "fc2"]
_BLOOM_LIKE = ["self_attention.dense", "dense_4h_to_h"]
_T5_LIKE = ["o", "wo"]

ADP_TARGET_MODULES: dict[str, list[str]] = {
    **dict.fromkeys(
        ["bert", "roberta", "xlm-roberta", "xlm-roberta-xl", "electra", "camembert", "deberta", "deberta-v2",
         "mpnet", "layoutlm", "vit", "deit", "beit"], _BERT_LIKE,
    ),
    **dict.fromkeys(
        ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo", "olmo2",
         "cohere", "granite", "smollm3", "stablelm", "starcoder2"], _LLAMA_LIKE,
    ),
    **dict.fromkeys(["bart", "mbart", "opt", "whisper", "blenderbot", "pegasus", "marian"], _BART_LIKE),
    **dict.fromkeys(["bloom", "falcon", "RefinedWeb", "RefinedWebModel"], _BLOOM_LIKE),
    **dict.fromkeys(["t5", "mt5", "umt5"], _T5_LIKE),
    "albert": ["attention.dense", "ffn_output"],
    "distilbert": ["out_lin", "lin2"],
    "gpt2": ["attn.c_proj", "mlp.c_proj"],
    "gpt_neox": ["attention.dense", "dense_4h_to_h"],
    "gptj": ["out_proj", "fc_out"],
    "gpt_neo": ["out_proj", "c_proj"],
    "phi": ["dense", "fc2"],
}  # fmt: skip
