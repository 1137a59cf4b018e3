"""Commands on whole checkpoints: `ttlib analyze`, `ttlib compress`, `ttlib decompress`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from ttlib.checkpoint import (
    CheckpointAnalysis,
    CompressionPlan,
    Engine,
    LocalEngine,
    Progress,
    WeightAnalysis,
)
from ttlib.checkpoint import (
    analyze as analyze_checkpoint,
)
from ttlib.checkpoint import (
    compress as compress_checkpoint,
)
from ttlib.checkpoint import (
    decompress as decompress_checkpoint,
)
from ttlib.checkpoint.analysis import DEFAULT_SHAPES, TABLE
from ttlib.checkpoint.compression import PLAN, plan_for_budget
from ttlib.checkpoint.engines import DaskEngine
from ttlib.checkpoint.run import Watch
from ttlib.checkpoint.smallest import smallest
from ttlib.checkpoint.table import write_table
from ttlib.checkpoint.weight import DEFAULT_EPS, DEFAULT_RANKS
from ttlib.cli.application import CommandError, Json, app, command, say
from ttlib.cli.archives import print_archive
from ttlib.cli.integers import write_count, write_shape
from ttlib.cli.printing import print_json, print_table, printable, write_compression

CheckpointArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors or .gguf file, or a folder of them.")
]
ShapesOption: TypeAlias = Annotated[int, typer.Option(help="Tensor shapes to try on each weight.")]
Include: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Only weights of such names, as in '*.mlp.*'; repeat it.", show_default="all")
]
Exclude: TypeAlias = Annotated[list[str] | None, typer.Option(help="No weights of such names; repeat it.")]
EngineOption: TypeAlias = Annotated[str, typer.Option(help="local or dask.")]
Scheduler: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler.", show_default="a cluster on this machine")
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(help="Processes; 0 for none but this one.", show_default="the processors")
]
Memory: TypeAlias = Annotated[
    float | None, typer.Option(help="GB that the processes may take together.", show_default="half of what is free")
]
Resume: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]


@command(app, example="ttlib analyze model.safetensors --output analysis --html report.html")
def analyze(
    checkpoint: CheckpointArgument,
    output: Annotated[Path | None, typer.Option(help="Folder for the journal and analysis.json.")] = None,
    shapes: ShapesOption = DEFAULT_SHAPES,
    ranks: Annotated[str, typer.Option(help="Ranks at which the error is told.")] = ",".join(map(str, DEFAULT_RANKS)),
    eps: Annotated[str, typer.Option(help="Relative errors for which ranks are told.")] = ",".join(
        map(str, DEFAULT_EPS)
    ),
    include: Include = None,
    exclude: Exclude = None,
    table: Annotated[Path | None, typer.Option(help="Also write all numbers as .csv or .parquet.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with tables and pictures.")] = None,
    engine: EngineOption = "local",
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    resume: Resume = False,
    json_output: Json = False,
) -> None:
    """Tell for each matrix of a checkpoint what tensor trains of it cost and lose."""
    _check_resume(resume, output)
    with _progress("analyse") as watch, _interruptible(output):
        found = analyze_checkpoint(
            checkpoint,
            output=output,
            shapes=shapes,
            ranks=_integers(ranks, "--ranks"),
            eps=_numbers(eps, "--eps"),
            include=include or ("*",),
            exclude=exclude or (),
            engine=_engine(engine, scheduler, workers, memory),
            resume=resume,
            watch=watch,
        )
    if table is not None:
        write_table(table, found)
    if html is not None:
        from ttlib.report import write_report  # noqa: PLC0415  # matplotlib takes longer to import than a table to print

        write_report(html, found, title=checkpoint.name)
    if json_output:
        print_json(found.to_json())
        return
    _print_analysis(found)
    for path in (output and output / TABLE, table, html):
        if path:
            say(f"wrote {path}")


@command(app, example="ttlib compress model.safetensors small --budget 0.5x")
def compress(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A new folder.")],
    budget: Annotated[
        str | None, typer.Option(help="Share of the parameters to keep, as in 0.5x; spent where it helps most.")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="Largest relative error of each weight.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan: a JSON file with the shape and ranks of weights.")] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Write OUTPUT/plan.json for the --budget, and compress nothing.")
    ] = False,
    shapes: ShapesOption = DEFAULT_SHAPES,
    include: Include = None,
    exclude: Exclude = None,
    engine: EngineOption = "local",
    scheduler: Scheduler = None,
    workers: Workers = None,
    memory: Memory = None,
    resume: Resume = False,
    json_output: Json = False,
) -> None:
    """Write a checkpoint with tensor trains in place of its matrices; give one of --budget, --eps and --plan."""
    options: dict[str, Any] = {
        "shapes": shapes,
        "include": include or ("*",),
        "exclude": exclude or (),
        "engine": _engine(engine, scheduler, workers, memory),
        "resume": resume,
    }
    share = None if budget is None else _share(budget)
    with _progress("compress") as watch, _interruptible(output):
        if plan_only:
            _plan_only(checkpoint, output, share, {**options, "watch": watch})
            return
        chosen = None if plan is None else CompressionPlan.load(plan)
        found = compress_checkpoint(checkpoint, output, budget=share, eps=eps, plan=chosen, watch=watch, **options)
    print_archive(found, json_output=json_output)
    say(f"wrote {output}")


@command(app, example="ttlib decompress small restored")
def decompress(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What ttlib compress wrote.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A new folder, or a .safetensors file.")],
) -> None:
    """Write the dense checkpoint that a compressed one stands for."""
    if output.exists():
        msg = f"{str(output)!r} exists: give a new path"
        raise CommandError(msg)
    decompress_checkpoint(folder, output)
    say(f"wrote {output}")


def _plan_only(checkpoint: Path, output: Path, budget: float | None, options: dict[str, Any]) -> None:
    if budget is None:
        msg = "--plan-only needs a --budget to plan for"
        raise CommandError(msg)
    made = plan_for_budget(checkpoint, output, budget=budget, **options)
    parameters = "" if made.parameters is None else f", {write_count(made.parameters)} parameters of them"
    typer.echo(
        f"{len(made.weights)} weights become trains{parameters}, root mean square error at most {made.error:.3g}"
    )
    say(f"wrote {output / PLAN}")


def _print_analysis(found: CheckpointAnalysis) -> None:
    asked = found.settings.eps
    print_table(
        ("weight", "size"),
        tuple(f"at {value:g}" for value in asked),
        (
            (
                printable(weight.name),
                write_shape((weight.rows, weight.cols)),
                *(_best(weight, value) for value in asked),
            )
            for weight in found.weights
        ),
    )
    typer.echo("how many times smaller the smallest of the tried trains is, for the relative error on top; -: none is")
    for skipped in found.skipped:
        typer.echo(f"skipped {printable(skipped.name)}: {skipped.reason}")


def _best(weight: WeightAnalysis, eps: float) -> str:
    """The largest compression of all shapes at one tolerance."""
    best = smallest(weight, eps)
    return "-" if best.shape is None else write_compression(best.compression)


def _engine(name: str, scheduler: str | None, workers: int | None, memory: float | None) -> Engine:
    if name == "dask":
        if memory is not None:
            msg = "--memory is for the local engine: a Dask cluster has limits of its own"
            raise CommandError(msg)
        return DaskEngine(scheduler, workers=workers)
    if name != "local":
        msg = f"--engine is {name!r}; give local or dask"
        raise CommandError(msg)
    if scheduler is not None:
        msg = f"--scheduler {scheduler} needs --engine dask"
        raise CommandError(msg)
    try:
        return LocalEngine(workers=workers, memory=None if memory is None else int(memory * 1e9))
    except ValueError as error:
        raise CommandError(str(error)) from error


def _check_resume(resume: bool, output: Path | None) -> None:
    if resume and output is None:
        msg = "--resume needs the --output folder of the run that is to go on"
        raise CommandError(msg)


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        msg = f"{option} is {text!r}; give whole numbers between commas, as in 4,8,16"
        raise CommandError(msg) from None


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        msg = f"{option} is {text!r}; give numbers between commas, as in 0.1,0.05"
        raise CommandError(msg) from None


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        msg = f"--budget is {text!r}; give the share of the parameters to keep, as in 0.5x"
        raise CommandError(msg) from None


@contextmanager
def _progress(what: str) -> Iterator[Watch | None]:
    """A bar on stderr with the rate and the time to go; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.fields[weights]}"),
        DownloadColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="", weights="")
        yield lambda progress: _show(bar, task, progress)


def _show(bar: ProgressBar, task: Any, progress: Progress) -> None:
    speed = bar.tasks[0].speed
    rate = "" if speed is None else f"{speed / 1e6:,.0f} MB/s"
    weights = f"{progress.done}/{progress.total}"
    bar.update(task, completed=progress.bytes_done, total=progress.bytes_total, rate=rate, weights=weights)


@contextmanager
def _interruptible(output: Path | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        hint = "" if output is None else "; the same command with --resume goes on where it was"
        say(f"interrupted{hint}")
        raise typer.Exit(130) from None
