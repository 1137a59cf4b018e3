"""From records to Markdown: one table a suite, the targets beside what was measured, met or missed said plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.records import Fact, Measure, Record, Target

HEAD = """# Speed

Written by `make bench` (all, one thread), `make bench THREADS=2` (the tables of that many threads) from
[benchmarks.json](benchmarks.json); `make bench QUICK=1` takes a minute and only prints.

Times are CPU seconds of the process, medians. Ours and the peers take turns in one process, and a ratio is the median
over pairs that ran one after the other: trust the ratios, not the milliseconds. A peer that takes seconds runs once,
cold. Peak memory is what a call adds to the resident memory of the process, whoever allocates it. **missed** stands
beside every target that was not reached; the targets are aims, not promises.
"""


@dataclass(frozen=True)
class Section:
    """What a reader must know about a table."""

    about: str
    # "peer / ttlib": how many times faster ours is; "ttlib / peer": how many times the peer's cost ours has
    ratio: Literal["peer / ttlib", "ttlib / peer"]


_LAYERS = "Forward and backward pass down to the input, or a forward pass in eval mode."
SECTIONS = {
    "TT-SVD": Section(
        "A dense tensor to a train. `skinny product` is one (n x 16) @ (16 x 4) product over as many bytes, the floor "
        "of what reading the tensor once costs; its target is what the C++ library pitts takes, in such products.",
        "peer / ttlib",
    ),
    "Growth": Section("The same question on tensors of up to eight times the size.", "peer / ttlib"),
    "Rounding": Section("Float64 trains whose spectra fall by a fifth from value to value.", "peer / ttlib"),
    "Sums": Section("`round_sum` beside `round` of the sum that has been formed.", "peer / ttlib"),
    "Bare layers, training": Section(
        "`TTLinear` of rank 5 alone. LoRA: the two products in -> 8 -> out alone. Rebuilt: the dense matrix from all "
        "cores at every forward, as the reference does; loretta: the reference. tltorch, torchtt: TT-matrices of rank "
        "5. Kernels: operators that do something, as torch's profiler counts them on the CPU. Saved: for the backward "
        "pass, beyond inputs, parameters and the outputs of frozen layers.",
        "ttlib / peer",
    ),
    "Training step": Section(
        "A LLaMA of 30 layers (hidden 576, 9 heads, 3 of keys and values), query and value projections adapted; "
        "forward, backward and AdamW.",
        "ttlib / peer",
    ),
}
_DEFAULT = Section(_LAYERS, "ttlib / peer")


def render(runs: dict[str, dict[str, Any]]) -> str:
    """The whole page from the runs by number of threads."""
    return "\n".join([HEAD, *(part for threads in sorted(runs, key=int) for part in _run(threads, runs[threads]))])


def _run(threads: str, run: dict[str, Any]) -> Iterable[str]:
    records = [Record.from_json(value) for value in run["records"]]
    verdicts = [target.met for record in records for target in record.targets]
    yield f"## {threads} thread{'s' if int(threads) > 1 else ''}\n"
    yield f"{', '.join(f'{name} {value}' for name, value in run['environment'].items())}.\n"
    yield (
        f"Of {len(verdicts)} targets {verdicts.count(True)} are met, {verdicts.count(False)} missed and "
        f"{verdicts.count(None)} could not be measured.\n"
    )
    if run["failed"]:
        yield f"These cases **failed**; their rows are missing or incomplete: {', '.join(run['failed'])}.\n"
    for name in dict.fromkeys(record.table for record in records):
        section = SECTIONS.get(name, _DEFAULT)
        yield f"### {name}\n\n{section.about}\n"
        yield _table([record for record in records if record.table == name], section) + "\n"
    if run["planning"]:
        yield f"### Plans\n\n{run['planning']}\n"


def _table(records: list[Record], section: Section) -> str:
    peers = list(dict.fromkeys(name for record in records for name in record.peers))
    facts = list(dict.fromkeys(name for record in records for name in record.facts))
    of = section.ratio.replace("peer", "{}").format
    errors: dict[str, None] = {}
    head = ["case", "CPU ms", *map(of, peers), *facts, "targets"]
    lines = [_line(head), _line(["---"] * len(head))]
    for record in records:
        cells = [record.case, _number(1e3 * (record.ours.seconds or 0))]
        cells += [_ratio(record.peers.get(name), section) for name in peers]
        cells += [_fact(record.facts.get(name)) for name in facts]
        cells.append("; ".join(map(_target, record.targets)))
        lines.append(_line(cells))
        errors |= {f"{name}: {peer.missing}": None for name, peer in record.peers.items() if peer.missing}
    notes = [f"\nNot measured: {'; '.join(errors)}."] if errors else []
    return "\n".join(lines + notes)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(peer: Measure | None, section: Section) -> str:
    if peer is None:
        return ""
    if peer.missing is not None:
        return peer.missing.partition(":")[0]
    if peer.ratio is None:
        return "?"
    return f"{_number(peer.ratio)}x" if section.ratio == "peer / ttlib" else f"{1 / peer.ratio:.2f}"


def _fact(fact: Fact) -> str:
    if isinstance(fact, list):
        return " / ".join("?" if value is None else _number(value) for value in fact)
    return "" if fact is None else fact if isinstance(fact, str) else _number(fact)


def _target(target: Target) -> str:
    sign = ">=" if target.bound == "least" else "<="
    verdict: Callable[[bool | None], str] = {True: "met", False: "**missed**", None: "not measured"}.__getitem__
    measured = "?" if target.measured is None else _number(target.measured, digits=5)
    return f"{target.what} {measured} ({sign} {_number(target.limit)}) {verdict(target.met)}"


def _number(value: float, digits: int = 4) -> str:
    """Enough digits to tell 1.001 from 1; whole above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"
