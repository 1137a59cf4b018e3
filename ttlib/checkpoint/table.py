"""The numbers of an analysis as a flat table, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from ttlib._files import replacing
from ttlib.checkpoint.analysis import CheckpointAnalysis
from ttlib.errors import ShapeError, TTFileError


def write_table(path: str | os.PathLike[str], analysis: CheckpointAnalysis, /) -> None:
    """Write a row for each weight, shape and rank or tolerance, as .csv or, with pyarrow, as .parquet.

    Raises:
        ShapeError: another suffix, or an analysis without weights.
        TTFileError: the file cannot be written; what was there is unchanged.
        ImportError: .parquet without pyarrow.
    """
    path = Path(path)
    rows = list(analysis.rows())
    if path.suffix not in (".csv", ".parquet"):
        msg = f"a table is a .csv or .parquet file, got {os.fspath(path)!r}"
        raise ShapeError(msg)
    if not rows:
        msg = "the analysis has no weights: there is nothing to write"
        raise ShapeError(msg)
    try:
        with replacing(path) as temporary:
            write = _write_csv if path.suffix == ".csv" else _write_parquet
            write(temporary, rows)
    except OSError as error:
        msg = f"cannot write {os.fspath(path)!r}: {error}; make room or choose another path"
        raise TTFileError(msg) from error


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        from pyarrow import Table, parquet  # noqa: PLC0415  # optional
    except ImportError as error:
        msg = "a .parquet table needs pyarrow: pip install pyarrow, or write a .csv"
        raise ImportError(msg) from error
    parquet.write_table(Table.from_pylist(rows), path)
