"""Table 5, storage and the paper's own sizes: what the methods cost, from the measurements in costs.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.paper.cells import options
from benchmarks.paper.report.aggregate import Evidence, Variant
from benchmarks.paper.report.findings import Claim, Finding, reproduced_if, untested
from benchmarks.paper.report.printed import ADP, TABLE_5
from benchmarks.paper.report.table import Table, count
from benchmarks.paper.report.wording import described, listed, model, title

_LORETTA, _REFERENCE, _DENSE = ("loretta-rep", "loretta-adp"), "lora-8", "adapters-64"
_ABOUT = (
    "CPU time of a training step on one thread, each method in turn with LoRA r=8, and the median of the ratios: trust "
    "the ratio, not the milliseconds. Peak: of all tensors that a step makes, without weights and optimiser. "
    "Operations: of the matrix products, forward and backward. File: what is saved, norms and head included."
)
_NOT_MEASURED = "Nothing has been measured yet: `python -m benchmarks.paper cost` does it."
_NOTABLE = 1.02  # times as much: less is noise, or of no interest
Row = Mapping[str, Any]


def sections(evidence: Evidence, figures: dict[str, str]) -> Iterator[str]:
    """The parts of the page that rest on costs.json; the figures that are shown are taken out of *figures*."""
    yield "## Table 5: time, memory, operations, bytes"
    if evidence.costs is None:
        yield _NOT_MEASURED
        return
    yield _ABOUT
    for workload, rows in _workloads(evidence).items():
        yield f"### {_named(workload)}\n\n{_costs(rows)}"
        yield " ".join(_told(rows))
    if "storage" in figures:
        yield f"![Bytes of what is saved (the paper's Figure 5)]({figures.pop('storage')})"
    yield f"## Parameters at the paper's sizes\n\n{_sizes(evidence.costs['sizes'])}"
    yield f"How many times fewer, by the paper's own counts:\n\n{_ratios(evidence.costs['ratios'])}"


def _workloads(evidence: Evidence) -> dict[tuple[str, int, int], dict[str, Row]]:
    """The rows by method for each model and batch."""
    found: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in (evidence.costs or {"costs": []})["costs"]:
        found.setdefault((row["model"], row["rows"], row["tokens"]), {})[row["method"]] = row
    return found


def _costs(rows: Mapping[str, Row]) -> Table:
    head = ("method", "all trained", "CPU ms", "x LoRA r=8", "10^9 operations", "peak MB", "optimiser MB", "file kB")
    return Table(
        head,
        [
            (
                title(method),
                count(row["trained"]["total"]),
                f"{1e3 * row['seconds']:.0f}",
                f"{row['ratio']:.2f}",
                f"{row['flops'] / 1e9:.2f}",
                f"{row['peak_bytes'] / 1e6:.1f}",
                f"{row['optimiser_bytes'] / 1e6:.2f}",
                f"{row['file_bytes'] / 1e3:,.1f}",
            )
            for method, row in sorted(rows.items(), key=lambda item: item[1]["trained"]["total"])
        ],
    )


def _told(rows: Mapping[str, Row]) -> Iterator[str]:
    fastest = min(rows, key=lambda method: rows[method]["ratio"])
    smallest = min(rows, key=lambda method: rows[method]["peak_bytes"])
    yield f"The fastest step is that of {title(fastest)} ({rows[fastest]['ratio']:.2f} of LoRA r=8's), the smallest"
    yield f"peak that of {title(smallest)} ({rows[smallest]['peak_bytes'] / 1e6:.1f} MB)."
    for name in _LORETTA:
        if name in rows and _REFERENCE in rows:
            times = {kind: rows[name][kind] / rows[_REFERENCE][kind] for kind in ("peak_bytes", "file_bytes")}
            yield (
                f"{title(name)}: {rows[name]['ratio']:.2f} times the time of LoRA r=8, {times['peak_bytes']:.2f} times "
                f"its peak and {times['file_bytes']:.2f} times its file."
            )


def _sizes(rows: list[Row]) -> Table:
    """The rows of the paper that print a count, each once."""
    return Table(
        ("table", "model", "method", "printed, M", "trained here", "adapter", "norms", "head", "verdict"),
        [
            (
                row["table"].removeprefix("Table "),
                model(row["model"]),
                _setting(row),
                row["printed"],
                *(count(row["trained"][kind]) for kind in ("total", "adapters", "norms", "head")),
                row["verdict"],
            )
            for row in rows
            if row["printed"]
        ],
    )


def _setting(row: Row) -> str:
    """A method with its settings, without the model's name and the start, which all rows of LoRETTA have."""
    chosen = {name: value for name, value in row["options"].items() if name not in ("preset", "init_weights")}
    return described(Variant(row["model"], row["method"], options(**chosen)))


def _ratios(rows: list[Row]) -> Table:
    return Table(
        ("model", "of", "than", "times fewer", "counts"),
        [
            (
                model(row["model"]),
                title(row["of"]),
                title(row["than"]),
                f"{row['times']:.1f}",
                f"{row['more']:,} / {row['fewer']:,}",
            )
            for row in rows
        ],
    )


def where_others_are_cheaper(evidence: Evidence) -> Iterator[str]:
    """Time, memory and operations of which LoRETTA takes more than LoRA or dense adapters."""
    kinds = {"ratio": "time of a step", "peak_bytes": "peak of memory", "flops": "operations"}
    for workload, rows in _workloads(evidence).items():
        for kind, words in kinds.items():
            more = [
                f"{title(own)} takes {times:.2f} times as much as {title(other)}"
                for own in _LORETTA
                for other, times in _times(rows, own, kind).items()
                if times > _NOTABLE
            ]
            if more:
                yield f"{_named(workload)}, {words}: {listed(more)}."


def _times(rows: Mapping[str, Row], own: str, kind: str) -> dict[str, float]:
    """How many times as much a method takes as LoRA and dense adapters, of those that were measured."""
    others = [other for other in (_REFERENCE, _DENSE) if {own, other} <= rows.keys()]
    return {other: rows[own][kind] / rows[other][kind] for other in others}


def _named(workload: tuple[str, int, int]) -> str:
    name, batch, tokens = workload
    return f"{model(name)}, {batch} x {tokens} tokens"


def _compared(kind: str, evidence: Evidence) -> Finding:
    """Whether LoRETTA_adp takes less of something than LoRA and dense adapters, on all that was measured."""
    own = "loretta-adp"
    found = {workload: _times(rows, own, kind) for workload, rows in _workloads(evidence).items()}
    if not any(found.values()):
        return untested(_NOT_MEASURED)
    told = "; ".join(
        f"{_named(workload)}: {listed(f'{ratio:.3f} times that of {title(other)}' for other, ratio in times.items())}"
        for workload, times in found.items()
        if times
    )
    return reproduced_if(all(ratio < 1 for times in found.values() for ratio in times.values()), f"{told}.")


def _unit(_: Evidence) -> Finding:
    adp, lora = TABLE_5[ADP], TABLE_5["LoRA"]
    return Finding(
        "wrong as printed",
        f"The numbers (adp {adp[0]:,.0f}, LoRA {lora[0]:,.0f}) are microseconds: the time that copies in memory took, "
        "not an amount of memory.",
    )


def _operations_saved(_: Evidence) -> Finding:
    adp, lora, adapters = (TABLE_5[name][1] for name in (ADP, "LoRA", "adapters"))
    return reproduced_if(
        adp < 0.95 * lora,
        f"By the table's own numbers adp takes {1 - adp / lora:.2%} fewer operations than LoRA and "
        f"{1 - adp / adapters:.2%} fewer than adapters.",
    )


def _counts(evidence: Evidence) -> Finding:
    rows = [row for row in (evidence.costs or {"sizes": []})["sizes"] if row["method"] in _LORETTA and row["printed"]]
    if not rows:
        return untested(_NOT_MEASURED)
    off = [row for row in rows if row["verdict"] != "as printed"]
    told = "; ".join(
        f"{row['table']}, {model(row['model'])}, {_setting(row)}: {row['verdict'].rstrip('.')}" for row in off
    )
    return reproduced_if(
        10 * len(off) <= len(rows),
        f"{len(rows) - len(off)} of {len(rows)} counts come out, rounded or cut off, with the settings of the paper's "
        f"code. {told or 'All do'}.",
    )


COSTS: tuple[Claim, ...] = (
    Claim("Table 5", "LoRETTA_adp needs 9,879 of memory, LoRA 45,674.", _unit),
    Claim("Table 5", "LoRETTA_adp takes less memory than LoRA and adapters.", partial(_compared, "peak_bytes")),
    Claim("Table 5", "LoRETTA_adp takes fewer operations than LoRA and adapters.", partial(_compared, "flops")),
    Claim("Table 5", "The operations saved make training more efficient.", _operations_saved),
    Claim("Abstract", "LoRETTA trains more efficiently: a step takes less time.", partial(_compared, "ratio")),
    Claim("Tables 1 to 11", "The trainable parameters of LoRETTA.", _counts),
)
