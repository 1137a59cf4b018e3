"""What the paper prints: Yang, Zhou, Wong, Zhang, LoRETTA, NAACL 2024.  Its numbers, with their table and row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PrintedRow:
    """One row of one of the paper's tables.

    Attributes:
        table: "Table 1" to "Table 11".
        model, method: as the rows are called there.
        setting: what differs from the paper's default; two rows with the same setting should agree.
        scores: percent, by column.
        millions: the trainable parameters that the row prints, as text.
        mean: the average that the row prints.
    """

    table: str
    model: str
    method: str
    scores: Mapping[str, float]
    setting: str = ""
    millions: str = ""
    mean: float | None = None


def _rows(
    table: str, model: str, columns: str, rows: Iterable[tuple[str, str, str, str] | tuple[str, str, str, str, float]]
) -> Iterator[PrintedRow]:
    for method, setting, millions, numbers, *mean in rows:
        scores = dict(zip(columns.split(), map(float, numbers.split()), strict=True))
        yield PrintedRow(table, model, method, scores, setting, millions, mean[0] if mean else None)


_GLUE = "MNLI SST-2 MRPC CoLA QNLI QQP RTE STS-B"
_THREE = "SST-2 MRPC QNLI"
ADP, REP = "LoRETTA_adp", "LoRETTA_rep"

PRINTED: tuple[PrintedRow, ...] = (
    *_rows("Table 1", "DeBERTa-base", _GLUE, [
        ("full", "", "139.19", "88.67 94.61 91.98 59.32 93.04 91.42 68.23 91.10", 84.79),
        ("adapters", "r=8", "0.94", "87.69 94.72 88.88 54.19 92.95 85.52 59.20 89.68", 81.60),
        ("LoRA", "r=8", "0.30", "87.30 94.95 92.84 60.56 93.35 85.19 80.14 90.13", 85.56),
        ("P-tuning", "", "0.23", "56.25 91.39 79.93 43.31 86.30 78.43 55.95 78.38", 71.24),
        ("LoRA", "r=4", "0.15", "87.69 94.49 91.10 62.57 92.60 87.30 69.67 91.12", 84.54),
        ("prompt", "", "0.01", "77.63 92.43 81.90 32.99 80.30 78.15 62.81 56.71", 70.36),
        ("prefix", "", "0.15", "60.32 88.87 81.22 45.82 83.28 82.22 59.57 84.99", 73.28),
        ("BitFit", "", "0.10", "84.63 95.41 91.42 64.06 93.20 84.15 66.79 90.23", 83.75),
        (ADP, "", "0.10", "85.93 95.30 93.53 60.84 92.99 84.08 75.50 91.32", 84.96),
        (REP, "", "0.05", "86.80 95.53 88.73 59.69 93.25 89.20 75.81 90.66", 84.95),
    ]),
    *_rows("Table 1", "RoBERTa-base", _GLUE, [
        ("BitFit", "", "0.10", "85.30 94.80 92.33 62.70 91.30 68.10 73.60 88.50", 82.08),
        ("LoRA", "r=8", "0.63", "86.82 94.01 91.48 62.08 92.39 85.71 74.51 90.48", 84.69),
        (ADP, "", "0.10", "85.61 94.38 91.08 62.70 92.12 87.22 78.70 90.26", 85.26),
        (REP, "", "0.07", "84.40 94.28 90.63 61.72 92.40 85.23 74.42 89.24", 84.04),
    ]),
    *_rows("Table 2", "LLaMA-2-7B", "CB BoolQ WSC COPA ReCoRD SQuAD DROP", [
        ("full", "", "6738.42", "66.07 84.6 63.46 86 81.1 90.71 51.38"),
        ("adapters", "", "50.33", "66.07 71.8 62.50 84 78.8 88.45 49.14"),
        ("LoRA", "r=8", "4.19", "67.86 84.8 62.50 81 79.4 90.56 45.96"),
        ("prefix", "", "1.31", "51.78 78.6 61.53 83 81.0 90.56 45.95"),
        ("IA3", "", "0.60", "64.29 72.3 36.53 80 81.5 89.41 39.37"),
        (REP, "", "0.51", "55.35 78.1 57.61 86 80.3 88.47 42.71"),
        (ADP, "", "0.88", "66.07 87.0 63.46 87 80.0 90.17 51.60"),
    ]),
    *_rows("Table 4", "DeBERTa-base", _THREE, [
        ("adapters", "sequence", "", "51.83 27.21 90.21", 56.42),
        ("LoRA", "sequence", "", "49.20 20.15 87.74", 55.70),
        (ADP, "sequence", "", "52.29 39.22 91.52", 61.01),
        (REP, "sequence", "", "51.26 52.94 92.15", 65.45),
    ]),
    *_rows("Table 6", "DeBERTa-base", "SST-2 QNLI", [
        (ADP, "rank 2", "0.067", "95.41 92.04"),
        (ADP, "", "0.098", "95.30 92.99"),
        (ADP, "rank 10", "0.206", "94.84 93.50"),
        (ADP, "rank 20", "0.627", "95.41 93.34"),
        (REP, "rank 2", "0.042", "94.61 92.71"),
        (REP, "", "0.054", "94.4 93.25"),
        (REP, "rank 10", "0.094", "94.95 93.47"),
        (REP, "rank 20", "0.250", "95.07 93.32"),
    ]),
    *_rows("Table 7", "DeBERTa-base", _THREE, [
        (ADP, "", "0.10", "95.30 93.53 93.25"),
        (ADP, "shape [64, 12, 64]", "0.11", "95.07 93.05 92.92"),
        (ADP, "shape [4, 4, 4, 12, 4, 4, 4]", "0.10", "94.72 90.72 92.86"),
    ]),
    *_rows("Table 11", "DeBERTa-base", _THREE, [
        (ADP, "head tensor-train, no norms", "0.061", "94.38 92.01 92.98"),
        (ADP, "", "0.1", "95.3 92.53 92.99"),
        (ADP, "head dense, no norms", "0.650", "93 91.9 93.15"),
        (ADP, "head dense, norms", "0.688", "94.26 91.09 93.06"),
        (ADP, "head frozen, no norms", "0.058", "93.92 92.11 92.71"),
        (ADP, "head frozen, norms", "0.096", "94.03 91.31 93.46"),
        (REP, "", "0.054", "95.53 88.73 93.25"),
        (REP, "head tensor-train, no norms", "0.016", "93.81 90.78 90.15"),
        (REP, "head dense, norms", "0.645", "95.18 91.88 92.99"),
        (REP, "head dense, no norms", "0.606", "95.41 91.00 92.57"),
        (REP, "head frozen, norms", "0.052", "95.41 91.19 92.69"),
        (REP, "head frozen, no norms", "0.014", "94.83 87.5 91.87"),
    ]),
)  # fmt: skip

# LLaMA-2-7B: what is printed as memory, in µs, and operations
TABLE_5: Mapping[str, tuple[float, float]] = {
    "adapters": (10_590, 6.18e15),
    "LoRA": (45_674, 6.145e15),
    ADP: (9_879, 6.141e15),
}


def row(table: str, method: str, setting: str = "", model: str = "") -> PrintedRow:
    """The row of a table; the first one of that method and setting where no model is named."""
    for own in PRINTED:
        if (own.table, own.method, own.setting) == (table, method, setting) and model in ("", own.model):
            return own
    msg = f"{table} of the paper has no row {method!r} with setting {setting!r}; see PRINTED"
    raise KeyError(msg)


def column(table: str, name: str) -> dict[str, float]:
    """A column of a table: the score by method."""
    return {own.method: own.scores[name] for own in PRINTED if own.table == table and name in own.scores}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One setting, one column, and more than one score."""

    method: str
    column: str
    printed: Mapping[str, float] = field(default_factory=dict)  # by table


def contradictions() -> list[Contradiction]:
    """Where the paper prints the same run with different scores."""
    seen: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for own in PRINTED:
        for name, score in own.scores.items():
            seen.setdefault((own.model, own.method, own.setting, name), {})[own.table] = score
    return [
        Contradiction(method, name, tables)
        for (_, method, _, name), tables in seen.items()
        if len(set(tables.values())) > 1
    ]


def wrong_means(tolerance: float = 0.011) -> list[tuple[PrintedRow, float]]:
    """The rows whose average is not that of their numbers, beyond what rounding or cutting does, and what it is."""
    found = [(own, sum(own.scores.values()) / len(own.scores)) for own in PRINTED if own.mean is not None]
    return [(own, mean) for own, mean in found if abs(mean - (own.mean or 0)) > tolerance]


def count_of(percent: float, rows: int, tolerance: float = 0.011) -> int | None:
    """How many of so many rows are a printed accuracy; None where no whole number of them is, cut off or rounded."""
    count = round(percent * rows / 100)
    return count if abs(100 * count / rows - percent) < tolerance else None
