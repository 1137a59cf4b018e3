from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ttlib_peft.finetune import DEFAULT_LEARNING_RATES, METHODS, FinetuneError, FinetuneSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("loretta",)}, "unknown method 'loretta'; the methods are loretta-rep, loretta-adp, lora"),
        ({"methods": ()}, "no method given"),
        ({"methods": ("lora", "head", "lora")}, "'lora' is given more than once"),
        ({"dtype": "float16"}, "unknown dtype 'float16'; the dtypes are float32, bfloat16"),
        ({"init_weights": "ones"}, "unknown init_weights 'ones'"),
        ({"target_modules": ()}, "target_modules is empty"),
        ({"text_column": "label"}, "must be different columns"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "got 2.5"),
        ({"max_steps": True}, "got True"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"eval_steps": -1}, "eval_steps must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"alpha": 0}, "alpha must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number above 0, got nan"),
        ({"learning_rate": "fast"}, "got 'fast'"),
        ({"epochs": -1.0}, "epochs must be"),
        ({"eval_fraction": 1.0}, "eval_fraction must lie between 0 and 1"),
        ({"eval_fraction": math.nan}, "got nan"),
        ({"epochs": 1.0, "max_steps": 5}, "epochs and max_steps exclude each other"),
        ({"eval_split": "test", "eval_fraction": 0.1}, "eval_split and eval_fraction exclude each other"),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
        ({"eval_split": "train"}, "train_split and eval_split are both 'train'"),
    ],
)
def test_nonsense_is_refused_by_fact_value_and_remedy(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(FinetuneError) as caught:
        FinetuneSettings(output=tmp_path, **changes)
    assert message in str(caught.value)


def test_a_used_output_folder_needs_resume_or_overwrite(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(FinetuneError, match="not empty; add --resume"):
        FinetuneSettings(output=tmp_path)
    with pytest.raises(FinetuneError, match="is a file"):
        FinetuneSettings(output=tmp_path / "something")
    FinetuneSettings(output=tmp_path, resume=True)
    FinetuneSettings(output=tmp_path, overwrite=True)


def test_the_record_survives_json_and_names_differences(tmp_path: Path) -> None:
    settings = FinetuneSettings(output=tmp_path, methods=("lora", "head"), target_modules=("query",))
    recorded = json.loads(json.dumps(settings.record()))
    assert settings.differences(recorded) == []
    again = FinetuneSettings(output=tmp_path / "new", methods=("lora",), target_modules=("query",), resume=True, seed=1)
    assert again.differences(recorded) == ["methods: ['lora', 'head'] -> ['lora']", "seed: 0 -> 1"]


def test_every_method_has_a_learning_rate_and_one_replaces_all(tmp_path: Path) -> None:
    assert set(DEFAULT_LEARNING_RATES) == set(METHODS)
    assert FinetuneSettings(output=tmp_path).learning_rate_of("head") == DEFAULT_LEARNING_RATES["head"]
    assert FinetuneSettings(output=tmp_path, learning_rate=0.5).learning_rate_of("head") == 0.5
