"""Texts and labels of a run: read, checked row by row, split once and for all, and turned into token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from ttlib_peft.finetune.labels import class_names, label_strings
from ttlib_peft.finetune.settings import DEFAULT_EVAL_FRACTION, FinetuneError, FinetuneSettings
from ttlib_peft.finetune.tables import Table, load_tables


@dataclass(frozen=True)
class Rows:
    """Examples of one split: texts, the second texts of pair tasks (or None) and labels 0..n-1."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        pairs = None if self.pairs is None else tuple(self.pairs[i] for i in indices)
        return Rows(tuple(self.texts[i] for i in indices), pairs, tuple(self.labels[i] for i in indices))

    def key(self, index: int) -> str:
        """A digest of the text (and second text) of one row, the same on every machine."""
        pair = "" if self.pairs is None else self.pairs[index]
        return hashlib.sha256(json.dumps([self.texts[index], pair]).encode()).hexdigest()


@dataclass(frozen=True)
class ClassificationData:
    """A sequence classification task: two disjoint sets of rows and the class names by label."""

    train: Rows
    evaluation: Rows
    label_names: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A digest of every text, label and class name: it tells a resumed run that its data are the same."""
        return hashlib.sha256(repr((self.train, self.evaluation, self.label_names)).encode()).hexdigest()

    @property
    def leaked(self) -> int:
        """How many evaluation rows have a text that is also a training text."""
        known = {self.train.key(index) for index in range(len(self.train))}
        return sum(self.evaluation.key(index) in known for index in range(len(self.evaluation)))


def load_data(settings: FinetuneSettings) -> ClassificationData:
    """Read the data that `settings` name; a FinetuneError names the first thing that makes them unusable."""
    train_table, evaluation_table = load_tables(settings)
    column = settings.label_column
    train_columns = _read_columns(train_table, settings)
    names = class_names(train_columns[column], feature=train_table.rows.features[column])
    if len(names) < 2:
        msg = (
            f"column {column!r} of split {train_table.split!r} holds only one class ({names[0]!r}); a classifier"
            " needs two or more"
        )
        raise FinetuneError(msg)
    train = _rows(train_columns, settings, names)
    if evaluation_table is None:
        train, evaluation = split_off(train, fraction=settings.eval_fraction or DEFAULT_EVAL_FRACTION)
    else:
        columns = _read_columns(evaluation_table, settings)
        _check_known(columns[column], names, settings, split=evaluation_table.split)
        evaluation = _rows(columns, settings, names)
    return ClassificationData(train, evaluation, names)


def split_off(rows: Rows, /, *, fraction: float) -> tuple[Rows, Rows]:
    """Hold out `fraction` of every class; which rows is a function of their texts alone.

    Neither a seed nor the order of the rows changes the held-out set, and equal texts of a class stay together.
    """
    held_out: list[int] = []
    for label in sorted(set(rows.labels)):
        keyed = sorted((rows.key(i), i) for i, other in enumerate(rows.labels) if other == label)
        count = min(max(1, round(fraction * len(keyed))), len(keyed) - 1)
        while 0 < count < len(keyed) and keyed[count][0] == keyed[count - 1][0]:
            count += 1
        if count < len(keyed):  # else the class has one distinct text: it stays in the training rows
            held_out.extend(index for _, index in keyed[:count])
    if not held_out:
        msg = (
            f"the evaluation split is empty: no class has two different texts among {len(rows)} rows; give"
            " more rows or an eval_split"
        )
        raise FinetuneError(msg)
    chosen = set(held_out)
    return rows.take([i for i in range(len(rows)) if i not in chosen]), rows.take(sorted(chosen))


def encode(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int, by_length: bool = False
) -> datasets.Dataset:
    """Token ids and labels of `rows`, cut at `max_length`, unpadded; `by_length` sorts them to waste less padding."""
    pairs = None if rows.pairs is None else list(rows.pairs)
    tokens = tokenizer(list(rows.texts), pairs, truncation=True, max_length=max_length)
    order = list(range(len(rows)))
    if by_length:
        order.sort(key=lambda index: len(tokens["input_ids"][index]))
    columns = {name: [values[index] for index in order] for name, values in tokens.items()}
    return datasets.Dataset.from_dict({**columns, "labels": [rows.labels[index] for index in order]})


def _read_columns(table: Table, settings: FinetuneSettings) -> dict[str, list[Any]]:
    """Return the wanted columns of one split as plain lists, labels as strings, all checked."""
    wanted = [settings.text_column, settings.label_column]
    wanted += [] if settings.text_pair_column is None else [settings.text_pair_column]
    rows, split = table.rows, table.split
    for column in wanted:
        if column not in rows.column_names:
            msg = (
                f"no column {column!r} in split {split!r} of {settings.data}; the columns there are"
                f" {', '.join(rows.column_names)}"
            )
            raise FinetuneError(msg)
    if rows.num_rows == 0:
        msg = f"split {split!r} of {settings.data} is empty; choose another split"
        raise FinetuneError(msg)
    columns = {column: list(rows[column]) for column in wanted}
    for column, values in columns.items():
        if column != settings.label_column:
            _check_texts(values, column=column, split=split)
    column = settings.label_column
    columns[column] = label_strings(columns[column], feature=rows.features[column], column=column, split=split)
    return columns


def _check_texts(values: Sequence[object], *, column: str, split: str) -> None:
    """Refuse missing, blank and non-text values, saying how many there are and where the first is."""
    empty = [i for i, value in enumerate(values) if value is None or (isinstance(value, str) and not value.strip())]
    if empty:
        msg = (
            f"column {column!r} of split {split!r} has {len(empty)} empty texts among {len(values)} rows"
            f" (first at row index {empty[0]}); remove those rows"
        )
        raise FinetuneError(msg)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            msg = (
                f"column {column!r} of split {split!r} must hold texts, but row index {index} is {value!r} "
                f"({type(value).__name__}); name the text column"
            )
            raise FinetuneError(msg)


def _check_known(labels: Sequence[str], names: Sequence[str], settings: FinetuneSettings, *, split: str) -> None:
    """Refuse a label that the training rows do not have: no head could ever predict it."""
    unknown = sorted(set(labels) - set(names))
    if unknown:
        msg = (
            f"split {split!r} has the label {unknown[0]!r} that split {settings.train_split!r} does not have (its"
            f" labels: {', '.join(names)}); remove those rows or choose another split"
        )
        raise FinetuneError(msg)


def _rows(columns: dict[str, list[Any]], settings: FinetuneSettings, names: Sequence[str]) -> Rows:
    """Return checked columns as rows with labels 0..n-1."""
    number = {name: index for index, name in enumerate(names)}
    pairs = None if settings.text_pair_column is None else tuple(columns[settings.text_pair_column])
    labels = tuple(number[name] for name in columns[settings.label_column])
    return Rows(tuple(columns[settings.text_column]), pairs, labels)
