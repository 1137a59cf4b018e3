"""The page: what was analysed, a table to sort and search, the pictures."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from ttlib import __version__
from ttlib._files import replacing
from ttlib.checkpoint.analysis import CheckpointAnalysis
from ttlib.checkpoint.smallest import Smallest, smallest
from ttlib.checkpoint.weight import WeightAnalysis
from ttlib.errors import TTFileError
from ttlib.report.frame import FRAME
from ttlib.report.pictures import Picture, pictures


def write_report(path: str | os.PathLike[str], analysis: CheckpointAnalysis, /, *, title: str) -> None:
    """Write an analysis as one self-contained HTML page.

    Args:
        path: the .html file; it stays the old one until the new one is complete.
        analysis: of a checkpoint, with at least one weight.
        title: of the page, such as the name of the checkpoint.

    Raises:
        TTFileError: the file cannot be written.
        ImportError: matplotlib is missing.
    """
    content = FRAME.substitute(
        title=escape(title),
        version=escape(__version__),
        summary=_summary(analysis),
        table=_table(analysis),
        skipped=_skipped(analysis),
        pictures="\n".join(map(_figure, pictures(analysis))),
    )
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(content, encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = f"cannot write {os.fspath(path)!r}: {error}; make room or choose another path"
        raise TTFileError(msg) from error


def _summary(analysis: CheckpointAnalysis) -> str:
    looked_at = sum(weight.rows * weight.cols for weight in analysis.weights)
    facts = {
        "matrices analysed": f"{len(analysis.weights):,}",
        "parameters in them": f"{looked_at:,}",
        "parameters elsewhere": f"{analysis.untouched_parameters:,}",
        "matrices skipped": f"{len(analysis.skipped):,}",
        "tensor shapes tried on each": f"{analysis.settings.shapes}",
    }
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _table(analysis: CheckpointAnalysis) -> str:
    """A row a weight: the smallest train at each tolerance, and the error of the best shape at each rank."""
    eps, ranks = analysis.settings.eps, analysis.settings.ranks
    titles = ["weight", "rows", "columns", "norm"]
    titles += [f"smaller at {value:g}" for value in eps] + [f"error at rank {rank}" for rank in ranks]
    head = "".join(f'<th scope="col"><button type="button">{escape(title)}</button></th>' for title in titles)
    rows = []
    for weight in analysis.weights:
        found = [smallest(weight, value) for value in eps]
        errors = [_error(weight, rank) for rank in ranks]
        cells = [_cell(weight.name), *(_cell(f"{side:,}", side) for side in (weight.rows, weight.cols))]
        cells += [_cell(f"{weight.norm:.4g}", weight.norm)]
        cells += [_cell(_times(best), best.compression, _told(best)) for best in found]
        cells += [_cell(f"{error:.3f}", error) for error in errors]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _error(weight: WeightAnalysis, rank: int) -> float:
    """The error that the best of the shapes has at most."""
    return min(at.error_high for own in weight.shapes for at in own.at_ranks if at.rank == rank)


def _cell(text: str, value: float | None = None, hint: str = "") -> str:
    """A cell; `data-value` is what it is sorted by."""
    sorted_by = "" if value is None else f' data-value="{value!r}"'
    told = f' title="{escape(hint)}"' if hint else ""
    return f"<td{sorted_by}{told}>{escape(text)}</td>"


def _times(best: Smallest) -> str:
    return f"{best.compression:,.1f}x" if best.compression > 1.0 else "-"


def _told(best: Smallest) -> str:
    if best.shape is None or best.ranks is None:
        return "no train is smaller"
    return f"shape {'x'.join(map(str, best.shape))}, ranks {','.join(map(str, best.ranks))}"


def _skipped(analysis: CheckpointAnalysis) -> str:
    if not analysis.skipped:
        return ""
    listed = "".join(f"<li><code>{escape(own.name)}</code>: {escape(own.reason)}</li>" for own in analysis.skipped)
    return f"<h2>Skipped</h2><ul>{listed}</ul>"


def _figure(picture: Picture) -> str:
    return (
        f'<figure><img alt="{escape(picture.caption)}" src="data:image/svg+xml;base64,{picture.svg}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
