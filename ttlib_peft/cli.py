"""The console script `ttlib-peft`: it turns options into settings, calls the library and prints what comes back."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ttlib.errors import TTError
from ttlib_peft.advice import without_advice
from ttlib_peft.architectures import CountError
from ttlib_peft.finetune import (
    FinetuneError,
    FinetuneReport,
    FinetuneSettings,
    loading_lines,
    results_table,
    run_finetune,
)
from ttlib_peft.finetune.demo import run_demo
from ttlib_peft.finetune.export import check_unused
from ttlib_peft.finetune.export import export_lora as write_as_lora

# What conversions of folders raise besides errors of this library: peft's and the file system's
_REFUSALS = (OSError, ValueError, TypeError, NotImplementedError)

app = typer.Typer(
    name="ttlib-peft",
    help="Fine-tune transformers with tensor-train adapters (LoRETTA) as Hugging Face PEFT methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the console script."""
    # peft asks every model for an attribute that transformers has renamed; users can do nothing about it.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    app()


@app.command()
def finetune(
    output: Annotated[Path, typer.Option(help="Folder for adapters, results.json and learning_curve.png.")],
    method: Annotated[
        list[str],
        typer.Option(help="Repeat it to compare methods: loretta-rep, loretta-adp, lora, full, bitfit, head."),
    ] = list(FinetuneSettings.methods),  # noqa: B006 (typer copies it)
    model: Annotated[
        str, typer.Option(help="Model folder, hub name, or the embedded minilm-l6.")
    ] = FinetuneSettings.model,
    data: Annotated[
        str,
        typer.Option(help="csv, tsv, jsonl, json or parquet file (or .gz), folder, hub name, or bbc-news."),
    ] = FinetuneSettings.data,
    text_column: Annotated[str, typer.Option(help="Column with the text.")] = FinetuneSettings.text_column,
    text_pair_column: Annotated[str | None, typer.Option(help="Column with the second text of a pair.")] = None,
    label_column: Annotated[
        str, typer.Option(help="Column with the class: strings or whole numbers.")
    ] = FinetuneSettings.label_column,
    train_split: Annotated[
        str, typer.Option(help="Split (file stem in a folder) to train on.")
    ] = FinetuneSettings.train_split,
    eval_split: Annotated[
        str | None, typer.Option(help="Split to evaluate on.", show_default="validation or test if there is one")
    ] = None,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Share of the training rows to hold out.", show_default="0.2")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens a text is cut at.")] = FinetuneSettings.max_length,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training rows.", show_default="3")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Training steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = FinetuneSettings.batch_size,
    learning_rate: Annotated[
        float | None, typer.Option(help="For all methods.", show_default="of each method its own")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of head, adapter, row order and dropout.")] = FinetuneSettings.seed,
    rank: Annotated[int, typer.Option(help="Rank of the update (loretta-rep, lora).")] = FinetuneSettings.rank,
    tensor_rank: Annotated[
        int, typer.Option(help="Tensor-train rank (loretta-rep, loretta-adp).")
    ] = FinetuneSettings.tensor_rank,
    bottleneck: Annotated[int, typer.Option(help="Adapter width (loretta-adp).")] = FinetuneSettings.bottleneck,
    alpha: Annotated[
        int, typer.Option(help="The update is scaled by alpha / rank (loretta-rep, lora).")
    ] = FinetuneSettings.alpha,
    init_weights: Annotated[
        str, typer.Option(help="true, false, residual, spectral, zero, gaussian or paper-mean (LoRETTA).")
    ] = "true",
    train_norms: Annotated[
        bool, typer.Option("--train-norms", help="Train the layer norms too (LoRETTA).")
    ] = FinetuneSettings.train_norms,
    target_modules: Annotated[
        str | None, typer.Option(help="Modules to adapt, e.g. query,value.", show_default="the architecture's")
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option(help="Steps between evaluations.", show_default="a fifth of all")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, of the base model.")] = FinetuneSettings.dtype,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the output folder.")] = False,
) -> None:
    """Fine-tune a sequence classifier with one or several methods and compare them."""
    options = dict(locals())
    with _errors_in_one_line():
        _print_report(run_finetune(FinetuneSettings(**_as_settings(options)), say=_say))


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write; an earlier demo in it is replaced.")] = Path(".demo"),
) -> None:
    """Compare four methods on a real model and real news, then check what was saved (about five minutes)."""
    with _errors_in_one_line():
        report, checks = run_demo(output, say=_say)
        _print_report(report)
    console = Console(highlight=False)
    for check in checks:
        console.print(f"[{'ok' if check.passed else 'FAILED'}] {check.statement}: {check.measured}", markup=False)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command("export-lora")
def export_lora(
    adapter: Annotated[Path, typer.Argument(help="Folder of a saved loretta-rep adapter.")],
    output: Annotated[Path, typer.Argument(help="New folder for the LoRA adapter.")],
    base: Annotated[str | None, typer.Option(help="Base model, if not where the adapter's config says.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Largest LoRA rank; a smaller one than the update has costs accuracy.")
    ] = None,
) -> None:
    """Write a loretta-rep adapter as a plain LoRA adapter, which stock peft loads without this library."""
    with _errors_in_one_line(), _warnings_in_one_line():
        write_as_lora(adapter, output, base=base, rank=rank)
    typer.echo(f"wrote {output}")


@app.command("compress-lora")
def compress_lora(
    lora: Annotated[Path, typer.Argument(help="Folder of a saved LoRA adapter.")],
    output: Annotated[Path, typer.Argument(help="New folder for the loretta-rep adapter.")],
    tensor_rank: Annotated[int | None, typer.Option(help="Largest rank of a bond.")] = None,
    eps: Annotated[float | None, typer.Option(help="Largest relative error of any module's update.")] = None,
    budget: Annotated[int | None, typer.Option(help="Most parameters of all modules together.")] = None,
) -> None:
    """Write a LoRA adapter as a loretta-rep adapter; give one of --tensor-rank, --eps and --budget."""
    from ttlib_peft.compress import compress_lora as compress

    with _errors_in_one_line(*_REFUSALS), _warnings_in_one_line():
        check_unused(output)
        small = compress(lora, tensor_rank=tensor_rank, eps=eps, budget=budget)
        small.save(output)
    for module in small.modules:
        sizes = f"{module.parameters_before} -> {module.parameters_after} parameters"
        typer.echo(f"{module.name}: relative error {module.relative_error:.1e}, {sizes}")
    typer.echo(f"wrote {output}: {small.parameters_before} -> {small.parameters_after} parameters")


@app.command("import-reference")
def import_reference(
    folder: Annotated[Path, typer.Argument(help="Folder that the loretta 0.1.0 library wrote.")],
    output: Annotated[Path, typer.Argument(help="New folder for the adapter.")],
) -> None:
    """Write a checkpoint of the reference library as a loretta-rep or loretta-adp adapter."""
    from ttlib_peft.reference_import import import_reference as read

    with _errors_in_one_line(*_REFUSALS), _warnings_in_one_line():
        check_unused(output)
        adapter = read(folder)
        adapter.save(output)
    for what in adapter.lost:
        typer.echo(f"not in the file: {what}")
    for name in adapter.redecomposed:
        typer.echo(f"decomposed again, the same matrix: {name}")
    typer.echo(f"wrote {output}")


@app.command()
def count(
    model: Annotated[
        str, typer.Argument(help="deberta-base, llama-2-7b, ...; a config.json or its folder; a hub name.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeat it: loretta-rep, loretta-adp, lora, adapters, bitfit, ia3, prefix, vera.", show_default="all"
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Rank of the update (loretta-rep, lora).")] = 8,
    tensor_rank: Annotated[int, typer.Option(help="Tensor-train rank (loretta-rep, loretta-adp).")] = 5,
    bottleneck: Annotated[int, typer.Option(help="Adapter width (loretta-adp, adapters).")] = 64,
    virtual_tokens: Annotated[int, typer.Option(help="Length of the prefix (prefix).")] = 8,
    vera_rank: Annotated[int, typer.Option(help="Rank of the frozen projections (vera).")] = 256,
    labels: Annotated[int | None, typer.Option(help="Classes of a classifier.", show_default="the model's")] = None,
    train_norms: Annotated[bool, typer.Option("--train-norms", help="Train the layer norms too (LoRETTA).")] = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="LoRETTA as in the paper's tables, not by these sizes.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="SEQ_CLS or CAUSAL_LM.", show_default="the model's usual")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """Count what each method would train on a model, without loading it."""
    from ttlib_peft.count_command import as_json, comparison_table, notes
    from ttlib_peft.counting import METHODS, CountSettings, compare_methods

    sizes = dict(locals())
    chosen = {field.name: sizes[field.name] for field in dataclasses.fields(CountSettings)}
    with _errors_in_one_line(), without_advice():  # what the log says of ranks stands in the notes
        compared = compare_methods(model, METHODS if method is None else method, CountSettings(**chosen))  # type: ignore[arg-type]  # checked there
    if json_output:
        typer.echo(json.dumps(as_json(compared), indent=2))
        return
    console = Console(highlight=False)
    console.print(comparison_table(compared))
    for line in notes(compared):
        console.print(line, markup=False)


def _as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the settings take them: other names, tuples for lists and real booleans."""
    settings = dict(options)
    settings["methods"] = tuple(settings.pop("method"))
    settings["init_weights"] = {"true": True, "false": False}.get(
        options["init_weights"].lower(), options["init_weights"]
    )
    if options["target_modules"] is not None:
        names = (name.strip() for name in options["target_modules"].split(","))
        settings["target_modules"] = tuple(name for name in names if name)
    return settings


def _say(line: str) -> None:
    """Progress goes to stderr: stdout holds the results alone."""
    typer.echo(line, err=True)


def _print_report(report: FinetuneReport) -> None:
    """Print the table, what is where, and how to load the first result."""
    output, first = report.settings.output, report.results[0]
    console = Console(highlight=False)
    console.print()
    console.print(results_table(report.results))
    console.print(f"\nIn {output}: results.json, learning_curve.png and a folder a method. To load {first.method}:\n")
    lines = loading_lines(first, output=output, model=report.base.name, labels=len(report.data.label_names))
    console.print(lines + "\n", markup=False, soft_wrap=True)


@contextmanager
def _errors_in_one_line(*refusals: type[Exception]) -> Iterator[None]:
    """Turn our own refusals into one line and exit code 2, and an interruption into a hint how to go on."""
    expected: tuple[type[Exception], ...] = (FinetuneError, CountError, TTError, *refusals)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command with --resume (without --overwrite) continues", err=True)
        raise typer.Exit(130) from None
    except expected as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings for people, without the place in the code that they come from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", FutureWarning)  # between libraries; users can do nothing about it
        yield
    for warning in caught:
        _say(f"warning: {' '.join(str(warning.message).split())}")
