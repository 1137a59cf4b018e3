"""Rows for the two LoRETTA methods, by the test file of PEFT and the table there that they take the place of."""

from typing import Any

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

Row = tuple[Any, ...]

REP: dict[str, Any] = {"r": 4}
ADP: dict[str, Any] = {"bottleneck": 4}
METHODS: dict[type, dict[str, Any]] = {LorettaRepConfig: REP, LorettaAdpConfig: ADP}


def _named(config: type, name: str, model: str, **settings: Any) -> Row:
    return f"{model} {name} {config.__name__}", model, config, {**METHODS[config], **settings}


_BOTH = [
    row
    for config in METHODS
    for row in (
        _named(config, "regex", "MLP", target_modules="lin0"),
        _named(config, "list", "MLP", target_modules=["lin0"]),
        _named(config, "last", "MLP", target_modules=["lin1"]),
        _named(config, "two", "MLP", target_modules=["lin0", "lin1"]),
        _named(config, "modules_to_save", "MLP", target_modules=["lin0"], modules_to_save=["lin1"]),
        _named(config, "overlap", "MLP", target_modules=["lin0", "lin1"], modules_to_save=["lin1"]),
        _named(config, "dropout", "MLP", target_modules=["lin0"], dropout=0.1),
        _named(config, "zero", "MLP", target_modules=["lin0"], init_weights="zero"),
        _named(config, "rank", "MLP", target_modules=["lin0", "lin1"], tensor_rank=2),
        _named(config, "shape", "MLP2", target_modules=["lin0"], tensor_rank_pattern={"lin0": 3}),
        _named(config, "layer norm", "MLP_LayerNorm", target_modules=["lin0"], train_norms=True),
        _named(config, "Conv1D", "EmbConv1D", target_modules=["conv1d"]),
    )
]
_REP_ALONE = [
    _named(LorettaRepConfig, "alpha", "MLP", target_modules=["lin0"], alpha=4),
    _named(LorettaRepConfig, "Embedding", "EmbConv1D", target_modules=["emb"]),
    _named(LorettaRepConfig, "all", "EmbConv1D", target_modules=["emb", "conv1d", "lin0"]),
]
_ADP_ALONE = [
    _named(LorettaAdpConfig, "input", "MLP", target_modules=["lin1"], placement="input"),
    _named(LorettaAdpConfig, "gelu", "MLP", target_modules=["lin0"], non_linearity="gelu"),
]
CUSTOM = [*_BOTH, *_REP_ALONE, *_ADP_ALONE]


def _two_adapters(name: str, first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    return [
        (name, config.__name__, config, *({**sizes, "init_weights": False, **own} for own in (first, second)))
        for config, sizes in METHODS.items()
    ]


def _mixed(name: str, first: dict[str, Any], second: dict[str, Any], *, rep_alone: bool = False) -> list[Row]:
    return [
        (f"{config.__name__} {name}", *(config(**{**sizes, "init_weights": False, **own}) for own in (first, second)))
        for config, sizes in METHODS.items()
        if config is LorettaRepConfig or not rep_alone
    ]


def _for_task(task_type: str) -> list[Row]:
    # the default sizes: the four numbers of a bottleneck of 4 are often all cut off by relu, and so is the gradient
    return [(config, {"task_type": task_type, "target_modules": None}) for config in METHODS]


_CONFIG_ROWS = [(config, {}) for config in METHODS]
_CLASS_ROWS = list(METHODS)

# File: the names of its tables and our rows for each.
TABLES: dict[str, dict[str, list[Any]]] = {
    "test_custom_models": {
        "TEST_CASES": CUSTOM,
        "ALL_PEFT_CONFIG_CLASSES": _CLASS_ROWS,
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": [
            *_two_adapters("same", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"]}),
            *_two_adapters("different", {"target_modules": ["lin0"]}, {"target_modules": ["lin1"]}),
        ],
        "MIXED_ADAPTER_TEST_CASES": _mixed(
            "mixed", {"target_modules": ["lin0"]}, {"target_modules": ["lin0"], "tensor_rank": 3}
        ),
    },
    "test_config": {"ALL_CONFIG_CLASSES": _CONFIG_ROWS, "LAYER_INDEXING_CONFIG_CLASSES": _CONFIG_ROWS},
    "test_decoder_models": {"ALL_CONFIGS": _for_task("CAUSAL_LM")},
    "test_encoder_decoder_models": {"ALL_CONFIGS": _for_task("SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": _for_task("FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": _for_task("SEQ_CLS")},
    "test_token_classification_qa": {
        "TOKEN_CLS_CONFIGS": _for_task("TOKEN_CLS"),
        "QA_CONFIGS": _for_task("QUESTION_ANS"),
    },
    "test_quantization": {
        "TEST_CASES": [
            (LorettaRepConfig, {"r": 8}),
            (LorettaAdpConfig, {"bottleneck": 8, "target_modules": ["q_proj", "v_proj"]}),
        ]
    },
}
LIN0 = {"target_modules": ["lin0"]}
_EMBEDDING = {"target_modules": ["emb", "conv1d"]}

# Tests that carry their rows themselves, in the decorator.
BY_TEST: dict[str, list[Any]] = {
    "test_save_pretrained_with_target_modules": _CLASS_ROWS,
    "test_multiple_adapters_mixed_modules_to_save": _CLASS_ROWS,
    "test_multiple_adapters_mixed_modules_to_save_order_switched": _CLASS_ROWS,
    "test_adapter_name_makes_no_difference": [
        config(target_modules=["lin0"], init_weights=False, seed=0) for config in METHODS
    ],
    "test_save_pretrained_targeting_lora_to_embedding_layer": [
        LorettaRepConfig(target_modules=["lin0", "embed_tokens"], init_weights=False),
        LorettaRepConfig(target_modules=".*embed_tokens", init_weights=False),
    ],
    "test_save_pretrained_targeting_lora_to_embedding_layer_non_transformers": [
        LorettaRepConfig(target_modules=["lin0", "emb"], init_weights=False),
        LorettaRepConfig(target_modules="^emb", init_weights=False),
    ],
    "test_mixed_adapter_batches_different_target_layers": _mixed("different", LIN0, {"target_modules": ["lin1"]}),
    "test_mixed_adapter_batches_multiple_modules_to_save": _mixed(
        "modules_to_save", {**LIN0, "modules_to_save": ["lin1"]}, {**LIN0, "modules_to_save": ["lin1"]}
    ),
    "test_mixed_adapter_batches_unsupported_layer_raises": _mixed(
        "unsupported", {**LIN0, "modules_to_save": ["gru"]}, {**LIN0, "modules_to_save": ["gru"]}
    ),
    "test_mixed_adapter_batches_partly_overlapping_target_layers": _mixed(
        "overlapping", LIN0, {"target_modules": ["lin0", "lin1"]}
    ),
    "test_mixed_adapter_batches_lora_conv1d_emb": _mixed(
        "embedding", _EMBEDDING, {**_EMBEDDING, "r": 16}, rep_alone=True
    ),
    "test_mixed_adapter_batches_lora_conv1d_emb_multiple_modules_to_save": _mixed(
        "embedding, modules_to_save",
        {**_EMBEDDING, "modules_to_save": ["lin0"]},
        {**_EMBEDDING, "r": 16, "modules_to_save": ["lin0"]},
        rep_alone=True,
    ),
    "test_mixed_adapter_batches_merged_raises": _mixed("merged", LIN0, LIN0, rep_alone=True),
    "test_mixed_adapter_batches_lora_wrong_adapter_name_raises": [
        (config.__name__, config(**LIN0, init_weights=False)) for config in METHODS
    ],
    "test_default_target_modules_not_set_raises": _CLASS_ROWS,
    "test_default_target_modules_not_set_model_type_set_raises": _CLASS_ROWS,
    # these two put an entry into LoRA's own table, which is LoRETTA_rep's as well
    "test_default_target_modules_list_of_str": [LorettaRepConfig],
    "test_default_target_modules_str": [LorettaRepConfig],
}
