from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig

from ttlib_peft.finetune import FinetuneError, FinetuneSettings
from ttlib_peft.finetune.base_model import locate_base_model
from ttlib_peft.finetune.methods import check_target_modules, head_modules, trained_names

Build = Callable[..., FinetuneSettings]
LABELS = ("sport", "tech", "art")


def test_every_build_starts_from_the_same_head(settings: Build) -> None:
    one, other = (locate_base_model(settings(), LABELS).build() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    another = locate_base_model(settings(seed=1), LABELS).build()
    assert not torch.equal(one.classifier.weight, another.classifier.weight)


def test_the_config_carries_the_labels(settings: Build) -> None:
    config = locate_base_model(settings(), LABELS).build().config
    assert config.id2label == {0: "sport", 1: "tech", 2: "art"}
    assert config.label2id == {"sport": 0, "tech": 1, "art": 2}


def test_the_dtype_is_that_of_the_weights(settings: Build) -> None:
    model = locate_base_model(settings(dtype="bfloat16"), LABELS).build()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_path_that_does_not_exist(settings: Build, model: str) -> None:
    with pytest.raises(FinetuneError, match=f"model {model} not found; give a model folder, a hub name or"):
        locate_base_model(settings(model=model), LABELS)


def test_a_hub_name_out_of_reach(settings: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FinetuneError, match="model 'someone/some-model' cannot be loaded: "):
        locate_base_model(settings(model="someone/some-model"), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "config.json is no JSON"),
        ("{}", "cannot be loaded: "),
        ('{"model_type": "brandnew"}', "cannot be loaded: .*brandnew"),
        (json.dumps(ViTConfig().to_dict()), "is of type 'vit', for which transformers has no sequence classifier"),
    ],
)
def test_a_folder_that_is_no_model(settings: Build, tmp_path: Path, content: str | None, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(FinetuneError, match=message) as caught:
        locate_base_model(settings(model=str(folder)), LABELS)
    assert "\n" not in str(caught.value)


def test_a_model_without_tokenizer(settings: Build, tiny_model: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(FinetuneError, match="has no tokenizer that loads: "):
        locate_base_model(settings(model=str(tmp_path / "model")), LABELS)


def test_texts_longer_than_the_model_reads(settings: Build) -> None:
    with pytest.raises(FinetuneError, match="max_length 65 is more than the 64 tokens the model reads"):
        locate_base_model(settings(max_length=65), LABELS)


def test_target_modules_are_checked_on_a_model_without_weights(settings: Build) -> None:
    skeleton = locate_base_model(settings(), LABELS).skeleton()
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    check_target_modules(skeleton, settings(target_modules=("query", "output.dense")))
    with pytest.raises(FinetuneError, match="target module 'q_proj' is not in .* called classifier, dense, key, query"):
        check_target_modules(skeleton, settings(target_modules=("query", "q_proj")))


def test_what_the_methods_without_adapter_train(settings: Build) -> None:
    skeleton = locate_base_model(settings(), LABELS).skeleton()
    assert head_modules(skeleton) == ["classifier"]
    head, bitfit, full = (trained_names(skeleton, method) for method in ("head", "bitfit", "full"))
    assert head == {"classifier.weight", "classifier.bias"}
    assert head < bitfit < full
    assert all(name.endswith("bias") for name in bitfit - head)
    assert {name for name in full - bitfit if name.endswith("bias")} == set()
