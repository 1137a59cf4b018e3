"""Class labels as found in the data, made strings, and the fixed order that numbers them 0..n-1."""

from __future__ import annotations

from collections.abc import Sequence

import datasets

from ttlib_peft.finetune.settings import FinetuneError


def label_strings(values: Sequence[object], /, *, feature: object, column: str, split: str) -> list[str]:
    """Every label as a string (the class name where the data set names its classes), missing ones refused."""
    missing = [index for index, value in enumerate(values) if _is_missing(value, feature)]
    if missing:
        msg = (
            f"column {column!r} of split {split!r} has {len(missing)} rows without a label among"
            f" {len(values)} (first at row index {missing[0]}); remove them or choose another split"
        )
        raise FinetuneError(msg)
    if isinstance(feature, datasets.ClassLabel):
        return [str(feature.names[int(str(value))]) for value in values]
    for index, value in enumerate(values):
        if not isinstance(value, str | int):
            msg = (
                f"column {column!r} of split {split!r} must hold strings or whole numbers, but row index"
                f" {index} is {value!r} ({type(value).__name__}); name the label column"
            )
            raise FinetuneError(msg)
    return [str(value) for value in values]


def class_names(labels: Sequence[str], /, *, feature: object) -> tuple[str, ...]:
    """The distinct labels in a fixed order: the data set's own, else by number if all are numbers, else sorted."""
    distinct = sorted(set(labels))
    if isinstance(feature, datasets.ClassLabel):
        return tuple(sorted(distinct, key=feature.names.index))
    if all(_is_number(label) for label in distinct):
        return tuple(sorted(distinct, key=int))  # "10" after "9"
    return tuple(distinct)


def _is_missing(value: object, feature: object) -> bool:
    """None, blank, and the -1 by which hub data sets mark the rows of a test split whose labels are secret."""
    if isinstance(feature, datasets.ClassLabel):
        return value is None or value == -1
    return value is None or (isinstance(value, str) and not value.strip())


def _is_number(label: str) -> bool:
    try:
        int(label)
    except ValueError:
        return False
    return True
