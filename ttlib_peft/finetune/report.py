"""Results for people: one table in the terminal, one picture of the learning curves, three lines to load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from ttlib_peft.atomic import replacing
from ttlib_peft.finetune.methods import PEFT_METHODS
from ttlib_peft.finetune.results import MethodResult

_KINDS = ("adapters", "norms", "head", "body")


def results_table(results: Sequence[MethodResult], /) -> Table:
    """One row a method: trained parameters by kind, their share, accuracy and cost; 80 characters, 90 with a body."""
    # Only full and bitfit train the body: leave the column out where it would hold nothing but zeros.
    kinds = [kind for kind in _KINDS if kind != "body" or any(result.parameters["body"] for result in results)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("method\n", no_wrap=True)
    for kind in kinds:
        table.add_column(f"{kind}\n#", justify="right", no_wrap=True)
    for heading in ("% of\nmodel", "accur.\n%", "right /\ntotal", "step\ns", "peak\nMB", "file\n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.method,
            *(_count(result.parameters[kind]) for kind in kinds),
            f"{result.percent_of_model:.2g}" if result.percent_of_model < 99.5 else "100",
            f"{100 * result.accuracy:.2f}",
            f"{result.correct}/{result.total}",
            "-" if result.seconds_per_step is None else f"{result.seconds_per_step:.2f}",
            f"{result.peak_memory_mb:.0f}",
            _size(result.adapter_bytes),
        )
    return table


def loading_lines(result: MethodResult, /, *, output: Path, model: str, labels: int) -> str:
    """Three lines of Python that load what a method saved."""
    folder = (output / result.saved).as_posix()
    if result.method in PEFT_METHODS:
        return (
            "import ttlib_peft  # registers the LoRETTA methods with peft\n"
            "from peft import AutoPeftModelForSequenceClassification as AutoModel\n"
            f"model = AutoModel.from_pretrained({folder!r}, num_labels={labels}).eval()"
        )
    if result.method == "full":
        return (
            "from transformers import AutoModelForSequenceClassification as AutoModel\n"
            f"model = AutoModel.from_pretrained({folder!r}).eval()"
        )
    return (
        "from transformers import AutoModelForSequenceClassification as AutoModel\n"
        "from ttlib_peft.finetune import load_trained\n"
        f"model = load_trained(AutoModel.from_pretrained({model!r}, num_labels={labels}), {folder!r}).eval()"
    )


def draw_learning_curves(results: Sequence[MethodResult], path: Path, /) -> None:
    """Training loss and evaluation accuracy over the steps, one line a method, as a PNG."""
    # Drawing on a bare Figure, not through pyplot: no window system is asked for and no global state is left.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (an optional dependency)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for result in results:
        left.plot(*result.curve("loss"), label=result.method, linewidth=1.5)
        steps, accuracies = result.curve("eval_accuracy")
        right.plot(steps, [100 * value for value in accuracies], label=result.method, marker="o", linewidth=1.5)
    left.set(title="Training", xlabel="step", ylabel="cross-entropy loss")
    right.set(title="Held-out rows", xlabel="step", ylabel="accuracy (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    # Below both panels: no corner of either is free of lines whatever the methods do.
    figure.legend(*left.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(results))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _count(number: int) -> str:
    """Exact below a million; beyond that the digits would crowd the rest out of the table (JSON has them all)."""
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:.1f}M"


def _size(size: int) -> str:
    """A file size in kB or MB of 1000s."""
    return f"{size / 1e3:.0f} kB" if size < 999_500 else f"{size / 1e6:.1f} MB"
