"""Where rows come from: a folder of data, the hub, or files of one's own; all checked against what the task needs."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from benchmarks.paper.tasks import Row, Source, Split, Task
from ttlib_peft.finetune.settings import FinetuneError, FinetuneSettings
from ttlib_peft.finetune.tables import load_tables

__all__ = ["FilesSource", "FolderSource", "HubSource", "Source", "source_from"]

_LAYOUT = "<folder>/<task>/<split>.jsonl.gz"
_MANIFEST = "MANIFEST.json"
_WAYS = f"a folder with files {_LAYOUT}, a .json file that names files of yours, or hub"


@dataclass(frozen=True)
class FolderSource:
    """Files `<folder>/<task>/<split>.jsonl.gz`, checked against a MANIFEST.json beside the tasks where there is one."""

    folder: str

    def rows(self, task: Task, split: Split) -> tuple[Row, ...]:
        """The rows of one file, read once."""
        return _folder_rows(self.folder, task, split)


@dataclass(frozen=True)
class HubSource:
    """The official rows, from the Hugging Face hub or from what `datasets` has kept of it."""

    def rows(self, task: Task, split: Split) -> tuple[Row, ...]:
        """The rows of one split, read once."""
        return _hub_rows(task, split)


@dataclass(frozen=True)
class FilesSource:
    """Files of one's own as (task, split, path): csv, tsv, json, jsonl or parquet with a column for each field.

    A label is a number from 0 or one of the task's label names.
    """

    files: tuple[tuple[str, Split, str], ...]

    @classmethod
    def of(cls, files: Mapping[str, Mapping[str, str]]) -> FilesSource:
        """From {task: {"train": path, "validation": path}}; ValueError for anything else."""
        listed: list[tuple[str, Split, str]] = []
        for task, paths in files.items():
            if not isinstance(paths, Mapping) or set(paths) != set(get_args(Split)):
                msg = f'files of the task {task} are {paths!r}; give {{"train": path, "validation": path}}'
                raise ValueError(msg)
            listed += [(task, split, str(paths[split])) for split in get_args(Split)]
        return cls(tuple(listed))

    def rows(self, task: Task, split: Split) -> tuple[Row, ...]:
        """The rows of one file, read once."""
        for name, own, path in self.files:
            if (name, own) == (task.name, split):
                return _file_rows(path, task)
        named = ", ".join(dict.fromkeys(name for name, _, _ in self.files)) or "no task"
        msg = f"no file for the task {task.name}, only for {named}; name its files too"
        raise FileNotFoundError(msg)


def source_from(argument: str | None) -> Source:
    """What `--data` means: "hub", a folder of data, or a .json file {task: {"train": path, "validation": path}}.

    Paths in the .json file are relative to it.  Raises FileNotFoundError where there is nothing, ValueError for a file
    that says something else.
    """
    if argument == "hub":
        return HubSource()
    if argument is None:
        msg = f"no data named; give {_WAYS}"
        raise FileNotFoundError(msg)
    path = Path(argument).expanduser()
    if path.is_dir():
        return FolderSource(str(path))
    if path.is_file() and path.suffix == ".json":
        named = _json(path)
        if not isinstance(named, dict):
            msg = f"{path} holds {type(named).__name__}; give an object of tasks and their files"
            raise ValueError(msg)
        files = FilesSource.of(named)
        return FilesSource(tuple((task, split, str(path.parent / file)) for task, split, file in files.files))
    msg = f"no data at {argument}; give {_WAYS}"
    raise FileNotFoundError(msg)


@functools.cache
def _folder_rows(folder: str, task: Task, split: Split) -> tuple[Row, ...]:
    if task.folder is None:
        msg = f"the task {task.name} has no rows in a folder of data; take them from the hub"
        raise FileNotFoundError(msg)
    name = task.folder.train if split == "train" else task.folder.validation
    path = Path(folder, task.folder.name, f"{name}.jsonl.gz")
    if not path.is_file():
        elsewhere = " or take the rows from the hub" if task.hub else ""
        msg = f"no file {path} with the {split} rows of the task {task.name}; put it there{elsewhere}"
        raise FileNotFoundError(msg)
    content = path.read_bytes()
    known = _digests(folder).get((task.folder.name, name))
    if known not in (None, hashlib.sha256(content).hexdigest()):
        msg = f"{path} is not the file that {_MANIFEST} lists (sha256 {known[:12]}…); fetch it again"
        raise ValueError(msg)
    return _checked(task, _lines(path, content), where=str(path))


@functools.cache
def _digests(folder: str) -> Mapping[tuple[str, str], str]:
    """The sha256 of each listed file by folder and name; nothing is listed where there is no manifest."""
    path = Path(folder, _MANIFEST)
    if not path.is_file():
        return {}
    try:
        return {(entry["task"], entry["split"]): entry["sha256"] for entry in _json(path)}
    except (TypeError, KeyError) as error:
        msg = f"{path} is no list of objects with task, split and sha256; fetch it again or remove it"
        raise ValueError(msg) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not valid JSON ({error}); mend it"
        raise ValueError(msg) from error


def _lines(path: Path, content: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        text = gzip.decompress(content).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        msg = f"{path} is not a whole gzip file of UTF-8 text ({error}); fetch it again"
        raise ValueError(msg) from error
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() also cuts at characters inside of texts
        if line:
            try:
                row = json.loads(line)
            except ValueError as error:
                msg = f"line {number} of {path} is not valid JSON ({error}); fetch the file again"
                raise ValueError(msg) from error
            if not isinstance(row, dict):
                msg = f"line {number} of {path} is {line[:40]!r}; give one JSON object a line"
                raise ValueError(msg)
            yield row


@functools.cache
def _hub_rows(task: Task, split: Split) -> tuple[Row, ...]:
    if task.hub is None:
        msg = f"the task {task.name} is not on the hub; take its rows from a folder of data or from files of yours"
        raise FileNotFoundError(msg)
    hub = task.hub
    name = hub.repository if hub.configuration is None else f"{hub.repository}:{hub.configuration}"
    try:
        found = _table(name, hub.validation if split == "validation" else "train")
    except FinetuneError as error:
        msg = f"the task {task.name} cannot be had from the hub: {error}. Connect to it, or name a folder of data"
        raise FileNotFoundError(msg) from error
    renamed = ({**row, **{field: _inside(row, column) for field, column in hub.columns}} for row in found)
    return _checked(task, renamed, where=f"{name}, {split}")


def _inside(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, None where there is none; a dot steps into it."""
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


@functools.cache
def _file_rows(path: str, task: Task) -> tuple[Row, ...]:
    if not Path(path).is_file():
        msg = f"no file {path} with rows of the task {task.name}; put it there or name another"
        raise FileNotFoundError(msg)
    return _checked(task, _table(path, "train"), where=path)  # the reader calls a single file "train"


def _table(data: str, split: str) -> list[dict[str, Any]]:
    """The rows of one split as the fine-tuning command reads them; its settings for what comes after do not matter."""
    table, _ = load_tables(FinetuneSettings(output=Path(), overwrite=True, data=data, train_split=split))
    return table.rows.to_list()


def _checked(task: Task, rows: Iterable[Mapping[str, Any]], *, where: str) -> tuple[Row, ...]:
    """The rows with what the task needs, or a ValueError that says which one has not."""
    checked: list[Row] = []
    for index, row in enumerate(rows):
        try:
            checked.append(_row(task, row))
        except ValueError as fault:
            msg = f"row index {index} of {where} does not fit the task {task.name}: {fault}; mend or remove it"
            raise ValueError(msg) from fault
    if not checked:
        msg = f"{where} has no rows for the task {task.name}; name another file"
        raise ValueError(msg)
    return tuple(checked)


def _row(task: Task, row: Mapping[str, Any]) -> Row:
    for name in task.fields:
        if row.get(name) is None:
            msg = f"it has no {name!r} (its fields: {', '.join(row)})"
            raise ValueError(msg)
    for name in (name for name in task.texts if not isinstance(row[name], str)):
        msg = f"{name!r} is {row[name]!r}, no text"
        raise ValueError(msg)
    if not any(row[name].strip() for name in task.texts):  # some official pairs do have one empty text
        msg = f"{' and '.join(map(repr, task.texts))} are blank"
        raise ValueError(msg)
    if task.kind == "answer":
        return {**row, "answers": _answers(row["answers"])}
    label = _label(task, row["label"])
    if task.kind == "choice":
        return {**row, "label": label}
    pair = None if task.second_text is None else task.second_text.format_map(row)
    return {**row, "text_pair": pair, "label": label}


def _answers(answers: object) -> list[str]:
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        msg = f"'answers' is {answers!r}, no list of texts"
        raise ValueError(msg)
    return answers


def _label(task: Task, label: object) -> int | float:
    if task.kind == "regression":
        low, high = task.range
        if isinstance(label, int | float) and math.isfinite(label) and low <= label <= high:
            return float(label)
        msg = f"'label' is {label!r}, no number from {low:g} to {high:g}"
        raise ValueError(msg)
    names = task.labels or ("choice1", "choice2")
    if label in names:
        return names.index(str(label))
    if isinstance(label, int) and 0 <= label < len(names):
        return int(label)
    msg = f"'label' is {label!r}, neither a number from 0 to {len(names) - 1} nor one of {', '.join(names)}"
    raise ValueError(msg)
