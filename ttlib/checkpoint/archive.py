"""The folder of a compressed checkpoint, and the manifest that says what is in it.

    compressed.json              the manifest: written last, so a folder without one is not complete
    trains/*.safetensors         a file of `ttlib.save` for each compressed weight
    dense.safetensors            all other tensors, bit for bit
    config.json, …               what else lay beside the weights

All files are checked against the manifest before their numbers are used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttlib._json import Json, refuse
from ttlib._types import Shape
from ttlib.checkpoint import json_file
from ttlib.errors import TTFileError

MANIFEST = "compressed.json"
TRAINS = "trains"
DENSE = "dense.safetensors"

FORMAT = "ttlib-compressed-checkpoint"
VERSION = 1

_REMEDY = "the folder is damaged or was changed: compress the checkpoint again"


# Neither a number, which other files have, nor hidden, nor with anything that a file system may mind.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class CompressedWeight:
    """One weight that became a train.

    Attributes:
        file: of the train, in the folder.
        sha256: of that file.
        dtype: of the weight in the checkpoint, as safetensors or gguf call it.
        shape: of the weight, (rows, cols).
        modes, ranks: of the train.
        parameters: the numbers in its cores.
        relative_error: ||W - TT|| / ||W||, with the cores as they are stored.
    """

    file: str
    sha256: str
    dtype: str
    shape: Shape
    modes: Shape
    ranks: Shape
    parameters: int
    relative_error: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CompressedWeight:
        """The value of the dict that `dataclasses.asdict` made."""
        lists = {name: tuple(value[name]) for name in ("shape", "modes", "ranks")}
        return cls(**{**value, **lists})


@dataclass(frozen=True, slots=True)
class Archive:
    """What a folder holds.

    Attributes:
        weights: what became trains, by the name of the weight.
        order: all tensors of the checkpoint, in its order.
        metadata: what the files of the checkpoint said of themselves.
        dense_sha256: of the file with all other tensors; None where there are none.
        dense_parameters: the numbers in it.
    """

    weights: Mapping[str, CompressedWeight]
    order: tuple[str, ...]
    metadata: Mapping[str, str]
    dense_sha256: str | None
    dense_parameters: int

    @property
    def parameters(self) -> int:
        """The numbers in the folder."""
        return self.dense_parameters + sum(weight.parameters for weight in self.weights.values())

    @property
    def parameters_before(self) -> int:
        """The numbers in the checkpoint."""
        return self.dense_parameters + sum(weight.shape[0] * weight.shape[1] for weight in self.weights.values())


def train_files(names: Sequence[str]) -> dict[str, str]:
    """Return the file of the train of each tensor: called like it, or by its number where no file could be.

    >>> train_files(["lm_head.weight", "a/b", "LM_HEAD.weight"])["a/b"]
    'trains/00001.safetensors'
    """
    folded = Counter(name.casefold() for name in names)  # some file systems do not tell A from a
    plain = {name for name in names if _PLAIN.fullmatch(name) and folded[name.casefold()] == 1}
    return {name: f"{TRAINS}/{name if name in plain else f'{k:05}'}.safetensors" for k, name in enumerate(names)}


def write_archive(folder: Path, archive: Archive) -> None:
    """Write the manifest, after which the folder is complete."""
    json_file.store(folder / MANIFEST, {"format": FORMAT, "version": VERSION, **asdict(archive)}, indent=1)


def read_archive(folder: str | os.PathLike[str], /) -> Archive:
    """Return what a folder of `compress` holds.

    Raises:
        FileNotFoundError: there is no manifest: it is another folder, or the run that writes it was cut short.
        TTFileError: the manifest is damaged.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        msg = f"no {MANIFEST} in {os.fspath(folder)!r}: give a folder of `ttlib compress`, finished with --resume"
        raise FileNotFoundError(msg)
    return json_file.load(path, _parse, what="the manifest", form=(FORMAT, VERSION), remedy=_REMEDY)


def _parse(content: Json) -> Archive:
    weights = {name: CompressedWeight.from_json(weight) for name, weight in content["weights"].items()}
    for name, weight in weights.items():
        if Path(weight.file).parts[:1] != (TRAINS,) or len(Path(weight.file).parts) != 2:  # no way out of the folder
            refuse(f"the file of {name}", weight.file, f"a name in {TRAINS}/", _REMEDY)
    return Archive(
        weights,
        tuple(content["order"]),
        dict(content["metadata"]),
        content["dense_sha256"],
        int(content["dense_parameters"]),
    )


def check_file(path: Path, sha256: str) -> None:
    """Raise TTFileError unless the file is there, with these contents."""
    try:
        found = digest(path)
    except OSError as error:
        msg = f"cannot read {os.fspath(path)!r}: {error}; {_REMEDY}"
        raise TTFileError(msg) from error
    if found != sha256:
        msg = f"{os.fspath(path)!r} has the SHA-256 {found[:12]}…, the manifest says {sha256[:12]}…; {_REMEDY}"
        raise TTFileError(msg)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_others(source: Path, target: Path) -> None:
    """Copy what lies beside the weights: settings, tokenizers, texts."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if _is_other(path):
            shutil.copyfile(path, target / path.name)


def _is_other(path: Path) -> bool:
    """Whether a file beside the weights belongs to the model and holds no weights."""
    if not path.is_file() or path.name == MANIFEST or path.name.endswith(".safetensors.index.json"):
        return False
    return path.suffix in (".json", ".txt", ".model", ".md", ".jinja", ".tiktoken")
