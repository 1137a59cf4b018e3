"""Logits of an adapter on stock peft and transformers: run as a script, this file imports nothing of this project.

    python -P lora_check.py REQUEST.json LOGITS.safetensors

The request names `base`, `adapter`, `num_labels`, `max_length` and `texts`. `-P` keeps this folder off the import
path, and the script refuses to go on should the library have come in another way: its answer is only worth
something as the answer of a machine that does not have it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

_BATCH = 32


def logits_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int
) -> torch.Tensor:
    """The logits (texts, labels) of a model in evaluation mode, on the CPU in float32."""
    device = next(model.parameters()).device
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                list(texts[start : start + _BATCH]),
                truncation=True,
                max_length=max_length,
                padding=True,
                return_tensors="pt",
            )
            parts.append(model(**batch.to(device)).logits.float().cpu())
    return torch.cat(parts)


def main(request_file: Path, logits_file: Path) -> None:
    """Load the adapter of the request on a fresh base model and write the logits of its texts."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(request["base"])
    base = AutoModelForSequenceClassification.from_pretrained(request["base"], num_labels=request["num_labels"])
    model = PeftModel.from_pretrained(base, request["adapter"]).eval()
    logits = logits_of(model, tokenizer, request["texts"], max_length=request["max_length"])
    foreign = sorted({"ttlib", "ttlib_peft"} & sys.modules.keys())
    if foreign:
        msg = f"{', '.join(foreign)} was imported, so this checks nothing; run with python -P"
        raise SystemExit(msg)
    save_file({"logits": logits}, str(logits_file))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
