"""A Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A head and rows of text; the first column is on the left, columns of numbers on the right.

    >>> print(Table(("method", "score"), [("LoRA", "90.1")]))
    | method | score |
    | :-- | --: |
    | LoRA | 90.1 |
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                msg = f"row {row[0]!r} has {len(row)} cells, the table {len(self.head)} columns; give it as many"
                raise ValueError(msg)

    def __str__(self) -> str:
        aligned = [":--" if self._is_text(at) else "--:" for at in range(len(self.head))]
        return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in (self.head, aligned, *self.rows))

    def _is_text(self, column: int) -> bool:
        return column == 0 or any(len(row[column]) > 0 and row[column].lstrip("*")[:1].isalpha() for row in self.rows)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def bold(text: str) -> str:
    """The text in bold."""
    return f"**{text}**"


def count(number: int | None) -> str:
    """A whole number with commas, a dash for what is not known."""
    return "—" if number is None else f"{number:,}"
