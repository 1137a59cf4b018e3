"""Files and folders that are either the old ones or the complete new ones, never half of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ttlib._files import remove, replacing

__all__ = ["read_json", "remove", "replacing", "write_json", "write_tensors"]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; not-a-number is refused since JSON has no word for it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically and with the permissions of an ordinary file."""
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
        save_file(contiguous, str(temporary), metadata={"format": "pt", **metadata})
        temporary.chmod(mode)  # safetensors makes its files readable by their owner alone


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
