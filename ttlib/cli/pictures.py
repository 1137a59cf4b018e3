"""Commands that draw what they are given: `ttlib plot spectrum`, `ranks`, `tree`, `pareto`, `heat-map`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import typer

from ttlib._files import replacing
from ttlib.checkpoint import CheckpointAnalysis
from ttlib.checkpoint.planning import pareto_curve
from ttlib.checkpoint.selection import by_place
from ttlib.checkpoint.smallest import smallest
from ttlib.cli.application import CommandError, Json, Overwrite, app, command, group
from ttlib.cli.files import FileArgument, ShapeOption, TensorOption, check_output
from ttlib.cli.integers import parse_ranks, parse_shape
from ttlib.cli.printing import print_json, printable
from ttlib.cli.sizes import DtypeOption, RanksOption, ShapeArgument, SplitOption, TokensOption, TrainingOption
from ttlib.cli.tensor_files import holds_train, read_tensor
from ttlib.cores.report import DecompositionReport
from ttlib.decomposition import decompose
from ttlib.planning import plan
from ttlib.storage import load
from ttlib.train import Train

_FORMATS = (".png", ".svg", ".pdf")
_DOTS_PER_INCH = 150

pictures = group("plot", help="Draw trains, plans and analyses; needs matplotlib.")
app.add_typer(pictures)

PictureOption: TypeAlias = Annotated[Path, typer.Option(help=f"The picture: {', '.join(_FORMATS)}.")]


@command(pictures, example="ttlib plot spectrum w.npy --shape 8x8x12x8x8 --ranks 5 --output w.png")
def spectrum(
    file: FileArgument,
    output: PictureOption,
    tensor: TensorOption = None,
    shape: ShapeOption = None,
    ranks: Annotated[str | None, typer.Option(metavar="RANKS", help="Show where these ranks would cut.")] = None,
    eps: Annotated[float | None, typer.Option(help="Show where this relative tolerance would cut.")] = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draw the singular values at every bond, of a saved train or of an array laid over a shape."""
    _check_picture(output, overwrite=overwrite, source=file)
    from ttlib import plot  # noqa: PLC0415  # needs matplotlib

    source = _spectrum_source(file, tensor, shape)
    cut = None if ranks is None else parse_ranks(ranks)
    _write(plot.spectrum(source, ranks=cut, eps=eps), output)
    _tell(output, plot.spectrum_rows(source, ranks=cut, eps=eps), json_output=json_output)


@command(pictures, example="ttlib plot ranks w.safetensors --output ranks.svg")
def ranks(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of ttlib.save or ttlib decompose.")],
    output: PictureOption,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draw the ranks of a saved train against the largest that its shape can carry."""
    _check_picture(output, overwrite=overwrite, source=file)
    from ttlib import plot  # noqa: PLC0415  # needs matplotlib

    train = load(file)
    _write(plot.rank_profile(train), output)
    _tell(output, plot.rank_rows(train), json_output=json_output)


@command(pictures, example="ttlib plot tree 8x8x12x8x8 --split 3 --ranks 5 --tokens 64 --output tree.png")
def tree(
    shape: ShapeArgument,
    split: SplitOption,
    ranks: RanksOption,
    tokens: TokensOption,
    output: PictureOption,
    training: TrainingOption = False,
    dtype: DtypeOption = "float32",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draw the order in which `ttlib plan` contracts cores and inputs."""
    _check_picture(output, overwrite=overwrite)
    from ttlib import plot  # noqa: PLC0415  # needs matplotlib

    made = plan(
        parse_shape(shape), split=split, ranks=parse_ranks(ranks), tokens=tokens, training=training, dtype=dtype
    )
    _write(plot.contraction_tree(made), output)
    _tell(output, plot.contraction_rows(made), json_output=json_output)


AnalysisArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="ANALYSIS", help="The analysis.json of ttlib analyze.")
]


@command(pictures, example="ttlib plot pareto analysis/analysis.json --output budget.svg")
def pareto(
    analysis: AnalysisArgument, output: PictureOption, overwrite: Overwrite = False, json_output: Json = False
) -> None:
    """Draw what a budget for all weights of a checkpoint together would buy."""
    _check_picture(output, overwrite=overwrite, source=analysis)
    from ttlib import plot  # noqa: PLC0415  # needs matplotlib

    points = [(point.parameters, point.error) for point in pareto_curve(CheckpointAnalysis.load(analysis))]
    _write(plot.pareto(points), output)
    _tell(output, plot.pareto_rows(points), json_output=json_output)


@command(pictures, example="ttlib plot heat-map analysis/analysis.json --eps 0.2 --output map.svg")
def heat_map(
    analysis: AnalysisArgument,
    output: PictureOption,
    eps: Annotated[float | None, typer.Option(help="The relative error.", show_default="the largest analysed")] = None,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Draw by layer and projection how many times smaller each weight can be at a relative error."""
    _check_picture(output, overwrite=overwrite, source=analysis)
    from ttlib import plot  # noqa: PLC0415  # needs matplotlib

    found = CheckpointAnalysis.load(analysis)
    asked = max(found.settings.eps, default=0.0) if eps is None else eps
    if asked not in found.settings.eps:
        known = ", ".join(f"{value:g}" for value in found.settings.eps) or "none"
        msg = f"{str(analysis)!r} was made for the errors {known}, got {asked:g}; choose one of them or analyse again"
        raise CommandError(msg)
    values = by_place({weight.name: smallest(weight, asked).compression for weight in found.weights})
    _write(plot.heat_map(values, label=f"times smaller at a relative error of {asked:g}"), output)
    _tell(output, [_Cell(*place, value) for place, value in values.items()], json_output=json_output)


class _Cell(NamedTuple):
    """One number of the map."""

    layer: str
    projection: str
    smaller: float


def _check_picture(output: Path, *, overwrite: bool, source: Path | None = None) -> None:
    if output.suffix.lower() not in _FORMATS:
        msg = f"a picture is one of {', '.join(_FORMATS)}, got {str(output)!r}; give --output one of these endings"
        raise CommandError(msg)
    check_output(output, overwrite=overwrite, source=source)


def _spectrum_source(file: Path, tensor: str | None, shape: str | None) -> Train | DecompositionReport:
    if not holds_train(file):
        array = read_tensor(file, tensor)
        return decompose(array, shape=None if shape is None else parse_shape(shape), return_report=True)[1]
    if tensor is not None or shape is not None:
        given = "--shape" if tensor is None else "--tensor"
        msg = f"{str(file)!r} holds a train with a shape of its own, got {given} too; leave it out"
        raise CommandError(msg)
    return load(file)


def _write(axes: Any, output: Path) -> None:
    with replacing(output) as temporary:
        axes.figure.savefig(temporary, dpi=_DOTS_PER_INCH)


def _tell(output: Path, rows: Iterable[Any], *, json_output: bool) -> None:
    """Say what was written, or print the rows that were drawn."""
    if json_output:
        print_json({"output": str(output), "rows": [row._asdict() for row in rows]})
    else:
        typer.echo(f"wrote {printable(output)}")
