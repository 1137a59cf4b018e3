"""Commands on one file: `ttlib decompose` makes a train of an array, `ttlib inspect` says what is in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias, cast

import numpy as np
import typer

from ttlib._arrays import dtype_name
from ttlib._manifest import Manifest, read_manifest
from ttlib._types import Driver
from ttlib.checkpoint.archive import MANIFEST, read_archive
from ttlib.cli.application import CommandError, Json, Overwrite, app, command
from ttlib.cli.archives import print_archive
from ttlib.cli.integers import parse_ranks, parse_shape, write_count, write_ranks, write_shape
from ttlib.cli.printing import print_fields, print_json, print_table, printable, write_compression
from ttlib.cli.tensor_files import Entry, holds_train, list_tensors, read_tensor
from ttlib.cost import compression, count_parameters
from ttlib.decomposition import decompose as tt_svd
from ttlib.errors import TTFileError
from ttlib.ranks import clip_ranks
from ttlib.storage import load, save

FileArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="A .npy or .safetensors file.")]
TensorOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which tensor of the file.", show_default="the only one")
]
ShapeOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="SHAPE", help="The modes, as in 8x8x12x8x8.", show_default="the array's own")
]


@command(app, example="ttlib decompose w.npy --shape 8x8x12x8x8 --ranks 5 --output w.safetensors")
def decompose(
    file: FileArgument,
    output: Annotated[Path, typer.Option(help="The file for the train, for ttlib.load and ttlib inspect.")],
    tensor: TensorOption = None,
    shape: ShapeOption = None,
    ranks: Annotated[
        str | None, typer.Option(metavar="RANKS", help="Cap on the ranks: one, or one a bond as in 4,5,5,4.")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="Largest relative error, 0 to 1.")] = None,
    parameters: Annotated[int | None, typer.Option(help="Most numbers to store, instead of --ranks.")] = None,
    compression: Annotated[
        float | None, typer.Option(help="Dense entries per number stored, instead of --ranks.")
    ] = None,
    driver: Annotated[str, typer.Option(help="How SVDs are taken: auto, lapack, qr, gram or sketch.")] = "auto",
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Decompose an array into a tensor train by TT-SVD and save it; without a cap or --eps, exactly."""
    check_output(output, overwrite=overwrite, source=file)
    array = read_tensor(file, tensor)
    train, report = tt_svd(
        array,
        shape=None if shape is None else parse_shape(shape),
        ranks=None if ranks is None else parse_ranks(ranks),
        eps=eps,
        parameters=parameters,
        compression=compression,
        driver=cast(Driver, driver),  # an unknown one is refused there
        return_report=True,
    )
    save(output, train)
    if json_output:
        print_json(
            {
                "output": str(output),
                "shape": train.shape,
                "ranks": train.ranks,
                "dtype": dtype_name(train.dtype),
                "parameters": train.parameters,
                "compression": train.compression,
                "relative_error": report.relative_error,
                "tolerance_met": report.tolerance_met,
                "drivers": report.drivers,
            }
        )
        return
    typer.echo(repr(train))
    typer.echo(str(report))
    typer.echo(f"wrote {printable(output)}")


@command(app, example="ttlib inspect w.safetensors")
def inspect(file: FileArgument, json_output: Json = False) -> None:
    """Say what is in a train, a checkpoint, or a compressed checkpoint, without reading more than it takes."""
    if (file / MANIFEST).is_file():
        print_archive(read_archive(file), json_output=json_output)
    elif holds_train(file):
        _inspect_train(file, json_output=json_output)
    else:
        _list_tensors(list_tensors(file), json_output=json_output)


def check_output(output: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Refuse an output file before the work is done: one that is there already, or that is read.

    Raises CommandError.
    """
    if output.is_dir():
        msg = f"the output {str(output)!r} is a folder; give the path of a file in it"
    elif source is not None and output.exists() and source.exists() and output.samefile(source):
        msg = f"the output {str(output)!r} is the file that is read; choose another"
    elif output.exists() and not overwrite:
        msg = f"the output {str(output)!r} exists already; choose another path or replace it with --overwrite"
    else:
        return
    raise CommandError(msg)


def _inspect_train(path: Path, *, json_output: bool) -> None:
    manifest = _manifest(path)
    modes = tuple(math.prod(own) for own in manifest.shapes)
    dense, parameters = math.prod(modes), count_parameters(modes, ranks=manifest.ranks)
    largest = clip_ranks(modes, dense)
    norm, log_norm = _norms(path, manifest)
    smaller = compression(dense, parameters)
    if json_output:
        print_json(
            {
                "kind": manifest.kind,
                **_modes(manifest),
                "ranks": manifest.ranks,
                "full_ranks": largest,
                "dtype": manifest.dtype,
                "parameters": parameters,
                "dense": dense,
                "compression": smaller,
                "norm": norm,
                "log_norm": log_norm,
            }
        )
        return
    print_fields(
        {
            "kind": manifest.kind.replace("_", " "),
            **{name.replace("_", " "): write_shape(own) for name, own in _modes(manifest).items()},
            "ranks": write_ranks(manifest.ranks),
            "dtype": manifest.dtype,
            "parameters": write_count(parameters),
            "compression": f"{write_compression(smaller)} of {write_count(dense)}",
            "norm": "not calculated: numpy has no bfloat16" if norm is None else _write_norm(norm, log_norm),
        }
    )
    bonds = enumerate(zip(manifest.ranks[1:-1], largest[1:-1], strict=True), start=1)
    print_table(
        (),
        ("bond", "rank", "largest", "share"),
        [(str(bond), write_count(rank), write_count(most), f"{rank / most:.1%}") for bond, (rank, most) in bonds],
    )


def _manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            return read_manifest(file, size=path.stat().st_size)[0]
    except TTFileError as error:
        msg = f"cannot inspect {str(path)!r}: {error}"
        raise TTFileError(msg) from error


def _modes(manifest: Manifest) -> dict[str, Sequence[int]]:
    if manifest.kind == "tensor_train":
        return {"shape": [own[0] for own in manifest.shapes]}
    return {"row_shape": [own[0] for own in manifest.shapes], "col_shape": [own[1] for own in manifest.shapes]}


def _norms(path: Path, manifest: Manifest) -> tuple[float | None, float | None]:
    """Return the norm and its logarithm, of cores that agree with their checksums; None where numpy lacks the dtype."""
    if manifest.dtype == "bfloat16":
        return None, None
    train = load(path)
    with np.errstate(over="ignore"):  # beyond the range of the dtype the logarithm tells
        return float(train.norm()), train.log_norm()


def _write_norm(norm: float, log_norm: float | None) -> str:
    return f"{norm:.6g}" if math.isfinite(norm) else f"exp({log_norm:.6g})"


def _list_tensors(entries: list[Entry], *, json_output: bool) -> None:
    total = sum(entry.parameters for entry in entries)
    if json_output:
        tensors = [
            {"name": entry.name, "dtype": entry.dtype, "shape": entry.shape, "parameters": entry.parameters}
            for entry in entries
        ]
        print_json({"kind": "tensors", "tensors": tensors, "parameters": total})
        return
    print_table(
        ("tensor", "dtype", "shape"),
        ("parameters",),
        (
            (printable(entry.name or "-"), entry.dtype, write_shape(entry.shape), write_count(entry.parameters))
            for entry in entries
        ),
    )
    typer.echo(f"{len(entries)} tensor(s), {write_count(total)} parameters")
