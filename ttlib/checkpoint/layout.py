"""Which files make up a checkpoint: one file, shards with an index, a folder as model hubs lay it out."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttlib.checkpoint.header import LARGEST_HEADER, parse_json, refuse
from ttlib.errors import TTFileError

_CANONICAL = "model.safetensors"
_CANONICAL_INDEX = "model.safetensors.index.json"
_INDEX = ".safetensors.index.json"
_TENSOR_FILES = (".safetensors", ".gguf")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SHARD = re.compile(r"(.+-)(\d{5})(-of-)(\d{5})(\.\w+)")
_MOST_SHOWN = 8

_ACCEPTED = "a .safetensors or .gguf file, an index (*.safetensors.index.json), or a folder with one of these"
_CONVERT = (
    "it could run code when opened: load it where you trust it with torch.load(path, weights_only=True) and save the "
    "tensors with safetensors.torch.save_file"
)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of a checkpoint in the order of their names; some may be missing."""

    files: tuple[Path, ...]
    homes: Mapping[str, str] | None = None  # from the index: in which file each tensor is
    digest: str = ""  # the SHA-256 of the index


def find_files(path: Path, /) -> CheckpointFiles:
    """Return the files of the checkpoint at *path*.

    In a folder `model.safetensors` comes first, as transformers has it, then an index, then a single file or one set
    of shards, then a single `snapshots/<commit>` as in the hub's cache.  What is ambiguous is refused.

    Raises:
        FileNotFoundError: there is nothing at the path.
        TTFileError: it is no checkpoint, or several, or one that only pickle could open.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _in_folder(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, f"there is no checkpoint here; give {_ACCEPTED}", str(path)) from error
    except (OSError, ValueError) as error:
        if isinstance(error, TTFileError):
            raise
        msg = f"cannot look for a checkpoint at {os.fspath(path)!r}: {error}; give {_ACCEPTED}"
        raise TTFileError(msg) from error
    if path.suffix.lower() in _PICKLES:
        refuse(path, "a pickle file is not opened", _CONVERT)
    if path.name.endswith(_INDEX):
        return _from_index(path)
    # Files without a suffix are told by their header: the blobs of the hub's cache have none.
    if path.suffix.lower() not in ("", *_TENSOR_FILES) or not stat.S_ISREG(mode):
        refuse(path, f"this is no checkpoint (suffix {path.suffix!r})", f"give {_ACCEPTED}")
    return CheckpointFiles((path,))


def _in_folder(folder: Path) -> CheckpointFiles:
    canonical = folder / _CANONICAL
    if canonical.is_file():
        return CheckpointFiles((canonical,))
    names = sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))
    indices = [name for name in names if name.endswith(_INDEX)]
    if _CANONICAL_INDEX in indices:
        indices = [_CANONICAL_INDEX]
    if indices:
        return _from_index(folder / _only(indices, folder))
    for suffix in _TENSOR_FILES:
        files = [name for name in names if name.lower().endswith(suffix)]
        if files:
            shards = _set_of_shards(files) or [_only(files, folder)]
            return CheckpointFiles(tuple(folder / name for name in shards))
    snapshots = folder / "snapshots"
    if snapshots.is_dir():
        commits = sorted(child.name for child in snapshots.iterdir() if child.is_dir())
        if commits:
            return _in_folder(snapshots / _only(commits, snapshots))
    raise _no_checkpoint(folder, names)


def _no_checkpoint(folder: Path, names: Sequence[str]) -> TTFileError:
    pickles = [name for name in names if name.lower().endswith(_PICKLES)]
    if pickles:
        msg = f"the weights are in pickle files ({_listed(pickles)}), which are not opened; {_CONVERT}"
    else:
        msg = f"the folder holds no checkpoint, but {_listed(names) or 'nothing'}; give {_ACCEPTED}"
    return TTFileError(f"{folder.name}: {msg}")


def _only(names: Sequence[str], folder: Path) -> str:
    if len(names) > 1:
        refuse(folder, f"{len(names)} candidates: {_listed(names)}", "give the path of the one that is meant")
    return names[0]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def _set_of_shards(names: Sequence[str]) -> list[str]:
    """Return all names of the one set that *names* belong to (a-00001-of-00003.gguf, …); empty if they do not."""
    matches = [_SHARD.fullmatch(name) for name in names]
    sets = {match.group(1, 3, 4, 5) if match else None for match in matches}
    if len(sets) != 1 or None in sets:
        return []
    stem, of, count, suffix = sets.pop() or ()
    return [f"{stem}{k + 1:05}{of}{count}{suffix}" for k in range(int(count))]


def _from_index(path: Path) -> CheckpointFiles:
    try:
        size = path.stat().st_size
        if size > LARGEST_HEADER:
            refuse(path, f"the index has {size} bytes, at most {LARGEST_HEADER} are read")
        text = path.read_bytes()
    except OSError as error:
        refuse(path, str(error), "make it readable")
    homes = parse_json(text, path).get("weight_map")
    if not isinstance(homes, dict) or not homes or not all(isinstance(home, str) for home in homes.values()):
        refuse(path, "the index has no weight_map from tensor names to file names", f"give {_ACCEPTED}")
    names = sorted(set(homes.values()))
    for name in names:
        if not _is_plain_name(name):
            refuse(path, f"the index names the file {name!r}", "only .safetensors files beside the index are opened")
    return CheckpointFiles(tuple(path.parent / name for name in names), homes, hashlib.sha256(text).hexdigest())


def _is_plain_name(name: str) -> bool:
    """Whether a file name from a stranger stays in the folder of the index."""
    return re.fullmatch(r"[^/\\\0:]+\.safetensors", name) is not None
