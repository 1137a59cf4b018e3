"""A dry run of a profile: every model built without numbers, every task read and encoded, nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from benchmarks.paper import models
from benchmarks.paper.cells import Cell
from benchmarks.paper.encoder import EncoderProblem
from benchmarks.paper.language import LanguageProblem
from benchmarks.paper.methods import count_parameters
from benchmarks.paper.paper_rows import PaperRow, Setting
from benchmarks.paper.profile import Profile
from benchmarks.paper.sizes import PaperCount, build, forward
from benchmarks.paper.tasks import TASKS, Source, Task, load_splits

Echo = Callable[[str], None]
_ROWS = 8  # of each task that are encoded
_STAND_INS = {"encoder": "tiny-bert", "decoder": "tiny-llama"}  # whose tokenizers are at hand
_COUNTED = ("adapters", "norms", "head", "body", "total")


def rehearse(profile: Profile, source: Source, *, rows: Iterable[PaperRow] = (), echo: Echo = print) -> list[str]:
    """Try all that a profile needs but the weights, and return what is wrong.

    *rows* are settings of the paper: their counts must be as printed, or the row says why not. Tasks that the source
    does not have but the hub has are named, and are no problem: a dry run needs no network.
    """
    return [*_check_models(profile, tuple(rows), echo), *_check_tasks(profile, source, echo)]


def _check_models(profile: Profile, rows: Sequence[PaperRow], echo: Echo) -> Iterator[str]:
    known = {row.setting for row in rows}
    others = dict.fromkeys((cell.model, cell.method, cell.options) for cell in _cells(profile))
    rest = [PaperRow("", *setting) for setting in others if setting not in known]
    every = sorted([*rows, *rest], key=lambda row: row.table == "")
    echo(f"{'':24}" + "".join(f"{kind:>15}" for kind in _COUNTED) + f"{'printed':>10}")
    tried: dict[Setting, Mapping[str, int]] = {}
    for row in every:
        where = f"{row.table:10}{row.model:14}"
        try:
            trained = tried.get(row.setting) or _tried(row)
        except Exception as error:  # whatever it is, the other models are tried too
            echo(f"{where}{row.label} FAILED: {type(error).__name__}: {error}")
            yield f"{row.model}, {row.label} cannot be built: {type(error).__name__}: {error}"
        else:
            count = PaperCount(row, trained)
            tried[row.setting] = trained
            echo(f"{where}{_told(count)}")
            yield from filter(None, [count.problem])


def _tried(row: PaperRow) -> Mapping[str, int]:
    """What a row's setting trains, after rows of embeddings went through its model."""
    model = build(row.setting)
    trained = count_parameters(model)
    try:
        forward(model)
    except Exception:
        if not row.not_run:
            raise
    else:
        if row.not_run:
            msg = f"it can be run; take out of paper_rows.py why not ({row.not_run})"
            raise ValueError(msg)
    return trained


def _told(count: PaperCount) -> str:
    row, numbers = count.row, "".join(f"{count.trained[kind]:15,}" for kind in _COUNTED)
    said = [f"{row.label}: {count.verdict}", row.note, row.not_run and f"Not run: {row.not_run}"]
    return (
        f"{numbers}{row.printed + 'M' if row.printed else '':>10}  {'. '.join(own.rstrip('.') for own in said if own)}"
    )


def _check_tasks(profile: Profile, source: Source, echo: Echo) -> Iterator[str]:
    echo(f"\n{'task':10}{'model':14}{'train':>9}{'tune':>7}{'report':>8}")
    first: dict[tuple[str, str], Cell] = {}
    for cell in _cells(profile):
        for name in cell.tasks:
            first.setdefault((name, cell.model), cell)
    for (name, _), cell in first.items():
        yield from _check_task(TASKS[name], cell, source, echo)


def _check_task(task: Task, cell: Cell, source: Source, echo: Echo) -> Iterator[str]:
    where = f"{task.name:10}{cell.model:14}"
    try:
        splits = load_splits(task.name, source, seed=cell.seed, examples=cell.budget.examples)
    except FileNotFoundError as error:
        if task.hub is None:
            echo(f"{where} FAILED: {error}")
            yield f"the rows of {task.name} are neither in the source nor on the hub: {error}"
        else:
            name = ":".join(filter(None, (task.hub.repository, task.hub.configuration)))
            echo(f"{where} needs the hub: {name}")
        return
    counts = f"{len(splits.train):9,}{len(splits.tune):7,}{len(splits.report):8,}"
    tokenizer, stands_in = _tokenizer(cell.model)
    try:
        _encode(task, cell, tokenizer, splits.train[:_ROWS], splits.report[:_ROWS])
    except Exception as error:  # whatever it is, the other tasks are tried too
        echo(f"{where}{counts} FAILED: {type(error).__name__}: {error}")
        yield f"rows of {task.name} cannot be encoded for {cell.model}: {type(error).__name__}: {error}"
        return
    echo(f"{where}{counts}  encoded with {stands_in or 'its own tokenizer'}")


def _encode(
    task: Task, cell: Cell, tokenizer: PreTrainedTokenizerBase, train: list[dict], held_back: list[dict]
) -> None:
    kind = LanguageProblem if models.MODELS[cell.model].kind == "decoder" else EncoderProblem
    problem = kind.of(task, tokenizer, train=train, held_back=held_back, max_length=cell.budget.max_length)
    batch = problem.collate(problem.train)
    if len(batch["input_ids"]) < len(train):  # options that share no reading make more
        msg = f"a batch of {len(train)} rows has {len(batch['input_ids'])}"
        raise ValueError(msg)


def _tokenizer(model: str) -> tuple[PreTrainedTokenizerBase, str]:
    """The model's own, or one that is at hand and its name."""
    try:
        return models.tokenizer(model), ""
    except (OSError, ValueError):  # not in the cache, and no way to the hub
        stand_in = _STAND_INS[models.MODELS[model].kind]
        return models.tokenizer(stand_in), "MiniLM's tokenizer in place of its own"


def _cells(profile: Profile) -> Iterator[Cell]:
    for cells in (*profile.tuning.values(), *profile.studies.values()):
        yield from cells
