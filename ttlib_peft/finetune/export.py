"""A saved LoRETTA adapter as a plain LoRA adapter folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ttlib_peft.adapter_folder import CONFIG, WEIGHTS
from ttlib_peft.atomic import read_json, replacing
from ttlib_peft.convert import save_as_lora
from ttlib_peft.finetune.settings import FinetuneError

_MODEL_CLASSES: dict[str, Any] = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "CAUSAL_LM": AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": AutoModelForSeq2SeqLM,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
}
_HEAD_WEIGHTS = (".classifier.weight", ".score.weight", ".out_proj.weight")


def export_lora(adapter: Path, output: Path, *, base: str | None = None, rank: int | None = None) -> None:
    """Write the adapter in the folder `adapter` to `output` as a LoRA adapter that stock peft loads.

    `base` names the base model if it is no longer where the adapter's config says. The update of loretta-rep is
    exactly low-rank, so nothing is lost unless `rank` caps the rank; the trained head goes along.
    """
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            msg = f"no {name} in {adapter}; give the folder that save_pretrained wrote"
            raise FinetuneError(msg)
    check_unused(output)
    config = read_json(adapter / CONFIG)
    model_class = _MODEL_CLASSES.get(config.get("task_type") or "", AutoModel)
    size = {"num_labels": _labels(adapter)} if config.get("task_type") in ("SEQ_CLS", "TOKEN_CLS") else {}
    name = base or config["base_model_name_or_path"]
    try:
        model = PeftModel.from_pretrained(model_class.from_pretrained(name, **size), str(adapter))
        with replacing(output) as temporary:
            save_as_lora(model, temporary, rank=rank)
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        msg = f"{adapter} cannot be exported as LoRA: {error}"
        raise FinetuneError(msg) from error


def check_unused(output: Path) -> None:
    """Raise FinetuneError unless there is nothing at `output`, or an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        msg = f"output {output} exists and is not an empty folder; give another one"
        raise FinetuneError(msg)


def _labels(adapter: Path) -> int:
    """The number of labels, read off the head that the adapter carries."""
    with safe_open(str(adapter / WEIGHTS), framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 (not a dict)
            if name.endswith(_HEAD_WEIGHTS):
                return int(stored.get_slice(name).get_shape()[0])
    msg = f"{adapter} holds no classification head ({', '.join(_HEAD_WEIGHTS)}); save the head with it"
    raise FinetuneError(msg)
