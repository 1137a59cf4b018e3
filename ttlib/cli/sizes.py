"""Commands on integers, before any array exists: `ttlib shapes`, `ttlib count`, `ttlib plan`."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, TypeAlias

import typer

from ttlib.cli.application import Json, app, command
from ttlib.cli.integers import parse_ranks, parse_shape, write_count, write_ranks, write_shape
from ttlib.cli.printing import print_fields, print_json, print_table, write_compression
from ttlib.cost import compression, count_parameters
from ttlib.planning import ContractionPlan
from ttlib.planning import plan as make_plan
from ttlib.ranks import clip_ranks, expand_ranks
from ttlib.shape_search import search_shapes
from ttlib.shapes import check_shape

ShapeArgument: TypeAlias = Annotated[str, typer.Argument(metavar="SHAPE", help="The modes, as in 8x8x12x8x8.")]
RanksOption: TypeAlias = Annotated[
    str, typer.Option(metavar="RANKS", help="One rank for all bonds, or one a bond as in 4,5,5,4.")
]
SplitOption: TypeAlias = Annotated[int, typer.Option(help="How many leading modes multiply to the inputs.")]
TokensOption: TypeAlias = Annotated[int, typer.Option(help="Vectors that are multiplied in one call.")]
TrainingOption: TypeAlias = Annotated[bool, typer.Option("--training", help="Count the gradients too.")]
DtypeOption: TypeAlias = Annotated[str, typer.Option(help="The dtype that is calculated in.")]


@command(app, example="ttlib shapes 768 64 --ranks 5 --top 3")
def shapes(
    rows: Annotated[int, typer.Argument(help="Rows of the matrix.")],
    cols: Annotated[int, typer.Argument(help="Columns of the matrix.")],
    ranks: Annotated[int, typer.Option(help="The rank wanted on every bond.")],
    order: Annotated[int | None, typer.Option(help="The number of modes.", show_default="every one up to 8")] = None,
    top: Annotated[int, typer.Option(help="How many shapes to print at most.")] = 10,
    json_output: Json = False,
) -> None:
    """Propose tensor shapes for a matrix, the one with the fewest parameters first."""
    found = search_shapes(rows, cols, ranks=ranks, order=order, top=top)
    smaller = [compression(math.prod(candidate.shape), candidate.parameters) for candidate in found]
    if json_output:
        listed = [{**asdict(candidate), "compression": times} for candidate, times in zip(found, smaller, strict=True)]
        print_json({"rows": rows, "cols": cols, "candidates": listed})
        return
    print_table(
        ("shape", "ranks"),
        ("split", "parameters", "compression"),
        (
            (
                write_shape(candidate.shape),
                write_ranks(candidate.ranks),
                str(candidate.split),
                write_count(candidate.parameters),
                write_compression(times),
            )
            for candidate, times in zip(found, smaller, strict=True)
        ),
    )
    for note in dict.fromkeys(candidate.note for candidate in found if candidate.note):
        typer.echo(note)


@command(app, example="ttlib count 8x8x12x8x8 --ranks 5")
def count(shape: ShapeArgument, ranks: RanksOption, json_output: Json = False) -> None:
    """Count the parameters of a tensor train, with the largest ranks that its shape can carry."""
    modes = check_shape(parse_shape(shape))
    bonds = expand_ranks(modes, parse_ranks(ranks))
    dense, parameters = math.prod(modes), count_parameters(modes, ranks=bonds)
    full, kept = clip_ranks(modes, dense), clip_ranks(modes, bonds)
    kept_parameters, smaller = count_parameters(modes, ranks=kept), compression(dense, parameters)
    if json_output:
        print_json(
            {
                "shape": modes,
                "ranks": bonds,
                "parameters": parameters,
                "dense": dense,
                "compression": smaller,
                "full_ranks": full,
                "kept_ranks": kept,
                "kept_parameters": kept_parameters,
            }
        )
        return
    fields = {
        "shape": write_shape(modes),
        "ranks": write_ranks(bonds),
        "parameters": write_count(parameters),
        "dense": write_count(dense),
        "compression": write_compression(smaller),
        "full ranks": write_ranks(full),
    }
    if kept != bonds:
        fields["kept ranks"] = (
            f"{write_ranks(kept)}: the shape can carry no more, {write_count(kept_parameters)} parameters"
        )
    print_fields(fields)


@command(app, example="ttlib plan 8x8x12x8x8 --split 3 --ranks 5 --tokens 2048")
def plan(
    shape: ShapeArgument,
    split: SplitOption,
    ranks: RanksOption,
    tokens: TokensOption,
    training: TrainingOption = False,
    dtype: DtypeOption = "float32",
    json_output: Json = False,
) -> None:
    """Compare the ways to multiply vectors by a matrix that is a tensor train, and pick the fastest."""
    made = make_plan(
        parse_shape(shape), split=split, ranks=parse_ranks(ranks), tokens=tokens, training=training, dtype=dtype
    )
    if json_output:
        print_json(plan_values(made))
    else:
        typer.echo(made.explain())


def plan_values(made: ContractionPlan) -> dict[str, object]:
    """Return a plan as plain values, a candidate as in the table of `explain`."""
    network, pick = made.network, made.pick
    return {
        "shape": network.shape,
        "split": network.split,
        "ranks": network.ranks,
        "tokens": network.tokens,
        "training": pick.training,
        "dtype": pick.dtype,
        "machine": pick.machine.library,
        "strategy": made.strategy,
        "order": made.order,
        "candidates": [
            {
                "strategy": candidate.strategy,
                "flops": candidate.flops,
                "bytes": candidate.bytes_moved,
                "kernels": len(candidate.kernels),
                "largest": candidate.program.peak_elements,
                "saved": candidate.saved_elements,
                "seconds": candidate.seconds,
            }
            for candidate in made.candidates
        ],
    }
