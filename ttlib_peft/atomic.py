"""Files and folders that are either the old ones or the complete new ones, never half of each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path` to write a file or folder to; a clean exit moves it into place.

    The temporary name keeps the suffix (some writers choose the format by it) and is removed when the body raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)  # replacing swaps files, but refuses a folder that is not empty
        temporary.replace(path)
    finally:
        remove(temporary)


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


def remove(path: Path) -> None:
    """Remove a file or a whole folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
