"""The paper's models, methods and recipes at their own sizes: for GPUs and the hub, checked here by a dry run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product

from benchmarks.paper.cells import Budget, Cell
from benchmarks.paper.models import MODELS
from benchmarks.paper.paper_rows import ROWS, TABLES, PaperRow
from benchmarks.paper.profile import Profile
from benchmarks.paper.rehearsal import rehearse
from benchmarks.paper.tasks import Source
from ttlib_peft.presets import recipe

SEEDS = (0, 1, 2)

# Rows of the official training sets: GLUE (Wang et al. 2019, Table 1), SuperGLUE (Wang et al. 2019, Table 1),
# SQuAD 1.1 (Rajpurkar et al. 2016), DROP (Dua et al. 2019).
TRAINING_ROWS = {
    "mnli": 392_702,
    "sst2": 67_349,
    "mrpc": 3_668,
    "cola": 8_551,
    "qnli": 104_743,
    "qqp": 363_846,
    "rte": 2_490,
    "stsb": 5_749,
    "cb": 250,
    "boolq": 9_427,
    "wsc": 554,
    "copa": 400,
    "record": 100_730,
    "squad": 87_599,
    "drop": 77_409,
}
GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
LOW_DATA = ("cb", "boolq", "wsc", "copa", "record", "squad", "drop")
EXAMPLES = 1000  # of each of these, in Tables 2 and 3
SEQUENCE = ("sst2", "mrpc", "qnli")
CURVE_EVERY = 200  # steps; the paper's text, its script has 500

_FULL_RATES = {"encoder": 1e-6, "decoder": 5e-6}

DEPARTURES = (
    "Three seeds in place of one, and the weights after the last step: the paper reports the checkpoint that is best "
    "on the development rows, its reported split.",
    "The learning rate rises over the first 6% of the steps and falls linearly to zero, as in every run of this study; "
    "the paper's is constant for GLUE, and falls linearly without a rise for LLaMA-2.",
    "Learning rates are the paper's for its own methods; for its baselines it prints a grid for all of them, and they "
    "have the rate of the task here (full fine-tuning its own).",
    "Up to 256 training rows, or a quarter, are kept out of training, as in every run of this study; an epoch counts "
    "the official rows.",
    "Each task of the sequence of Table 4 has the steps of MRPC's 20 epochs; the paper does not say. MRPC is scored by "
    "F1 there too.",
    "LoRA on DeBERTa stands on its joint query-key-value layer, as PEFT has it: as many parameters as the paper's.",
)


def budget(task: str) -> Budget:
    """The paper's epochs and batches as steps.

    >>> budget("mrpc").steps, budget("cb").steps, budget("squad").steps
    (4600, 750, 3000)
    """
    own, low_data = recipe(task), task in LOW_DATA
    rows = min(TRAINING_ROWS[task], EXAMPLES) if low_data else TRAINING_ROWS[task]
    return Budget(
        steps=own.epochs * -(-rows // own.batch_size),
        batch_size=own.batch_size,
        max_length=2048 if low_data else 128,
        examples=EXAMPLES if low_data else None,
    )


def learning_rate(method: str, task: str) -> float:
    """The paper's rate for a method on a task."""
    if method == "full":
        return _FULL_RATES["decoder" if task in LOW_DATA else "encoder"]
    return recipe(task).learning_rate


def dry_run(source: Source, echo: Callable[[str], None] = print) -> list[str]:
    """Build every model and read every task without training; what is wrong comes back, nothing if all is well."""
    problems = rehearse(PROFILE, source, rows=ROWS, echo=echo)
    echo("\nWhere these runs depart from the paper's:")
    for departure in DEPARTURES:
        echo(f"- {departure}")
    return problems


def _cells(rows: Iterable[PaperRow], tasks: Iterable[str], curve_every: int = 0) -> Iterator[Cell]:
    for seed, row, task in product(SEEDS, rows, tasks):
        if not row.not_run:
            yield Cell(
                row.model,
                row.method,
                (task,),
                seed,
                budget(task),
                learning_rate=learning_rate(row.method, task),
                options=row.options,
                curve_every=curve_every,
                dtype="bfloat16" if MODELS[row.model].kind == "decoder" else "float32",
            )


def _sequences(rows: Iterable[PaperRow]) -> Iterator[Cell]:
    own = budget("mrpc")
    for seed, row in product(SEEDS, rows):
        yield Cell(row.model, row.method, SEQUENCE, seed, own, learning_rate(row.method, "mrpc"), options=row.options)


PROFILE = Profile(
    name="paper",
    description="DeBERTa-base, RoBERTa-base and LLaMA-2 of three sizes, with the paper's recipes and three seeds",
    studies={
        "t1": tuple(_cells((*TABLES["t1-deberta"], *TABLES["t1-roberta"]), GLUE)),
        "lm": (
            *_cells(TABLES["t2"], LOW_DATA),
            *_cells(TABLES["t3-13b"], ("copa", "record", "squad", "drop")),
            *_cells(TABLES["t3-70b"], ("squad", "drop")),
        ),
        "t4": tuple(_sequences(TABLES["t4"])),
        "t6": tuple(_cells(TABLES["t6"], ("sst2", "qnli"))),
        "t7": tuple(_cells(TABLES["t7"], SEQUENCE)),
        "t11": tuple(_cells(TABLES["t11"], SEQUENCE)),
        "init": tuple(_cells(TABLES["init"], ("sst2",))),
        "curves": tuple(_cells(TABLES["curves"], ("sst2", "qnli"), CURVE_EVERY)),
    },
)
