"""What a reader of an adapter's folder has to know that PEFT's model card does not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttlib._files import replacing

CARD = "README.md"
_HEADING = "## How to load this adapter"
# Settings whose values fit into a table, in the order of interest.
_SHOWN = ("r", "alpha", "bottleneck", "tensor_rank", "tensor_shape", "init_weights", "train_norms", "tensorize_modules")


def describe_in_card(folder: Path, settings: Mapping[str, Any]) -> None:
    """Add to the model card in *folder* how the adapter is loaded and what it is; a card that says so is left alone."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if _HEADING in text:
        return
    with replacing(card) as temporary:
        temporary.write_text(f"{text.rstrip()}\n\n{_usage(settings)}", encoding="utf-8")


def _usage(settings: Mapping[str, Any]) -> str:
    method = str(settings["peft_type"])
    rows = [f"| `{name}` | {settings[name]} |" for name in _SHOWN if settings.get(name) is not None]
    return "\n".join(
        [
            _HEADING,
            "",
            f"Its method, {method}, comes with ttlib. Without the first import PEFT raises `KeyError: '{method}'`.",
            "",
            "```python",
            "import ttlib_peft",
            "from peft import PeftModel",
            "",
            'model = PeftModel.from_pretrained(base_model, "path/to/this/folder")',
            "```",
            "",
            "| setting | value |",
            "|---|---|",
            *rows,
            "",
        ]
    )
