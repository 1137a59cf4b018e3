"""Where the rows come from: a file, a folder of files, a hub data set or the embedded corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ttlib_peft.finetune.embedded import EMBEDDED_DATA, read_embedded_texts
from ttlib_peft.finetune.settings import FinetuneError, FinetuneSettings

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    # By default pandas reads the words NA, None and null as missing values: in a text they are words.
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
FILE_KINDS = f"{', '.join(_READERS)} (each also .gz)"
_EVALUATION_NAMES = ("validation", "valid", "val", "dev", "eval", "test")


@dataclass(frozen=True)
class Table:
    """One split: its name and its rows, with the columns as they are there."""

    split: str
    rows: datasets.Dataset


def load_tables(settings: FinetuneSettings) -> tuple[Table, Table | None]:
    """The training rows and, where the data have a split for it, the evaluation rows."""
    if settings.data in EMBEDDED_DATA:
        texts, labels = read_embedded_texts(settings.data)
        columns = {"text": texts, "label": labels}
        return _pick(settings, {"train": datasets.Dataset.from_dict(columns)})
    path = Path(settings.data).expanduser()
    if path.exists():
        files = _split_files(path)
        wanted = [name for name in _split_names(settings, files) if name is not None]
        return _pick(settings, {name: _read_file(files[name]) for name in wanted})
    if _looks_like_a_path(settings.data):
        msg = f"data {settings.data} not found; give a file ({FILE_KINDS}), a folder with such files or a hub name"
        raise FinetuneError(msg)
    return _pick(settings, _read_hub(settings.data))


def _pick(settings: FinetuneSettings, tables: Mapping[str, datasets.Dataset]) -> tuple[Table, Table | None]:
    train, evaluation = _split_names(settings, tables)
    return Table(train, tables[train]), None if evaluation is None else Table(evaluation, tables[evaluation])


def _split_names(settings: FinetuneSettings, present: Iterable[str]) -> tuple[str, str | None]:
    """Which of the splits that are `present` to train on and to evaluate on (None: hold out some training rows)."""
    names = list(present)
    for option, wanted in (("train_split", settings.train_split), ("eval_split", settings.eval_split)):
        if wanted is not None and wanted not in names:
            msg = f"no split {wanted!r} in {settings.data}; there are: {', '.join(sorted(names))}. Set {option}"
            raise FinetuneError(msg)
    if settings.eval_split is not None or settings.eval_fraction is not None:
        return settings.train_split, settings.eval_split
    usual = [name for name in _EVALUATION_NAMES if name in names and name != settings.train_split]
    return settings.train_split, usual[0] if usual else None


def _split_files(path: Path) -> dict[str, Path]:
    """The data files by split: a single file is `train`, a file in a folder gives its stem as the name."""
    if path.is_file():
        if _kind(path) is None:
            msg = f"data file {path.name} is of an unknown kind; readable are {FILE_KINDS}"
            raise FinetuneError(msg)
        return {"train": path}
    files: dict[str, Path] = {}
    for file in sorted(entry for entry in path.iterdir() if entry.is_file() and _kind(entry) is not None):
        split = file.name.split(".")[0]
        if split in files:
            msg = f"data folder {path} holds both {files[split].name} and {file.name} for split {split!r}; remove one"
            raise FinetuneError(msg)
        files[split] = file
    if not files:
        msg = f"data folder {path} holds no data file; expected e.g. train.jsonl and validation.jsonl ({FILE_KINDS})"
        raise FinetuneError(msg)
    return files


def _kind(path: Path) -> str | None:
    """The suffix that decides the reader, without `.gz`; None if there is no reader for it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def _looks_like_a_path(data: str) -> bool:
    """Whether a name that is no existing path was still meant as one (a hub name is `name` or `owner/name`)."""
    return data.startswith(("/", ".", "~")) or data.count("/") > 1 or _kind(Path(data)) is not None


def _read_file(path: Path) -> datasets.Dataset:
    """One file as a data set in memory; the Arrow copies that `datasets` makes on the way are thrown away."""
    builder, options = _READERS[_kind(path) or ""]
    bars_were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="ttlib-peft-data-") as cache:
            return datasets.load_dataset(
                builder, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True, **options
            )
    except Exception as error:  # the readers behind `datasets` raise a dozen unrelated types
        msg = f"{path} holds no rows that can be read as {builder}: {_first_line(error)}"
        raise FinetuneError(msg) from error
    finally:
        if bars_were_on:
            datasets.enable_progress_bars()


def _read_hub(name: str) -> Mapping[str, datasets.Dataset]:
    """All splits of a hub data set; `owner/name:configuration` chooses one of several configurations."""
    repository, _, configuration = name.partition(":")
    try:
        return dict(datasets.load_dataset(repository, configuration or None))
    except Exception as error:  # offline, not found, gated, several configurations: the message tells which
        msg = f"data {name!r} is neither a local path nor a hub data set that can be loaded: {_first_line(error)}"
        raise FinetuneError(msg) from error


def _first_line(error: BaseException) -> str:
    """The first line of the innermost cause: `datasets` wraps it in errors that only say that one occurred."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
