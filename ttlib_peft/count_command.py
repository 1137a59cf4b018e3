"""What `ttlib-peft count` prints: a table for people, or the same as JSON."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ttlib_peft.counting import Comparison, CountRow


def comparison_table(compared: Comparison) -> Table:
    """Return the counts as a table, a row a method, which fits into 80 columns."""
    title = f"{compared.model}, {compared.base:,} parameters, {compared.task}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("adapters", "norms", "head", "biases", "total", "% base", "file MB", "rank"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in compared.rows:
        table.add_row(row.method, *_numbers(row))
    return table


def notes(compared: Comparison) -> list[str]:
    """Return what the numbers do not say: settings, ranks that are capped, formulas, methods that do not fit."""
    lines = []
    for row in compared.rows:
        if row.setting or row.note:
            lines.append(f"{row.method}: {'; '.join(filter(None, (row.setting, row.note)))}")
        if row.count is not None and row.count.is_capped:
            lines.append(
                f"{row.method}: the tensor rank caps its matrices at rank {row.count.matrix_rank} of "
                f"{row.count.nominal_rank}"
            )
    return lines


def as_json(compared: Comparison) -> dict[str, Any]:
    """Return the counts as plain JSON values."""
    return {
        "model": compared.model,
        "task": compared.task,
        "base": compared.base,
        "methods": [
            {"method": row.method, "setting": row.setting, "note": row.note, "count": _values(row)}
            for row in compared.rows
        ],
    }


def _values(row: CountRow) -> dict[str, Any] | None:
    count = row.count
    if count is None:
        return None
    sizes = {"percent": count.percent, "file_bytes": count.file_bytes}
    return {**count.trained, **sizes, "matrix_rank": count.matrix_rank, "nominal_rank": count.nominal_rank}


def _numbers(row: CountRow) -> tuple[str, ...]:
    count = row.count
    if count is None:
        return ("-",) * 8
    trained = (f"{count.trained[kind]:,}" for kind in ("adapters", "norms", "head", "body", "total"))
    rank = "" if count.matrix_rank is None else str(count.matrix_rank)
    capped = f" of {count.nominal_rank}" if count.is_capped else ""
    return (*trained, f"{count.percent:.4f}", f"{count.file_bytes / 1e6:.3f}", rank + capped)
