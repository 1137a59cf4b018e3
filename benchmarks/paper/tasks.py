"""The tasks of the paper, as data: what is asked, how it is scored, and where its rows are found."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["classification", "regression", "choice", "answer"]
Split = Literal["train", "validation"]
Row = dict[str, Any]

_TUNE_SEED = 20_240_707  # of no run
_REPORT_SEED = 20_240_708


@dataclass(frozen=True, slots=True)
class Hub:
    """The official rows on the Hugging Face hub.

    `columns` has (field of a row, column there) where the names differ; a dot steps into a column.
    """

    repository: str
    configuration: str | None = None
    validation: str = "validation"
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Folder:
    """The task's folder in a folder of data, and the names of the files of its two splits."""

    name: str
    train: str = "train"
    validation: str = "validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        kind: decides the fields of a row, see `fields`.
        metric: a name of `metrics.METRICS`, the one of the paper's Table 8 or, for language models, of its code.
        labels: what the labels 0, 1, … mean; empty unless kind is "classification".
        second_text: what `text_pair` is made of, as a template of a row's fields; None: the task has one text.
        range: of a regression's labels.
        hub: the official rows; None: not on the hub with these labels.
        folder: the rows in a folder of data; None: not there.
        report_rows: how many of the development rows are scored (a fixed choice); None: all.
        note: where rows are not the official ones.
    """

    name: str
    kind: Kind
    metric: str
    description: str
    labels: tuple[str, ...] = ()
    second_text: str | None = None
    range: tuple[float, float] = (0.0, 1.0)
    hub: Hub | None = None
    folder: Folder | None = None
    report_rows: int | None = None
    note: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The fields that hold what is read.

        >>> TASKS["sst2"].texts, TASKS["rte"].texts, TASKS["copa"].texts
        (('text',), ('text', 'text_pair'), ('premise', 'question', 'choice1', 'choice2'))
        """
        if self.kind == "choice":
            return ("premise", "question", "choice1", "choice2")
        if self.kind == "answer":
            return ("context", "question")
        parts = string.Formatter().parse(self.second_text or "")
        return ("text", *(name for _, name, _, _ in parts if name))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a row must have: the texts and what is asked for, `label` or `answers`."""
        return (*self.texts, "answers" if self.kind == "answer" else "label")


class Source(Protocol):
    """Where rows come from; it can be pickled, for it goes to the processes that train."""

    def rows(self, task: Task, split: Split) -> tuple[Row, ...]:
        """All rows of a split, in a fixed order, with `task.fields` (and `text_pair`, or None, beside a `text`).

        The rows belong to everybody in the process: read them only.  Raises FileNotFoundError where there are none.
        """


@dataclass(frozen=True, slots=True)
class Splits:
    """Three sets of rows: to train on, to choose learning rates on, and to report on."""

    train: list[Row]
    tune: list[Row]
    report: list[Row]


def load_splits(task: str, source: Source, *, seed: int, examples: int | None = None, tune_rows: int = 256) -> Splits:
    """Split a task's rows.

    `tune` is always the same `tune_rows` of the training rows (a quarter of them where they are few), whatever the
    seed.  `train` never has a row with the texts of one in `tune`; the seed draws `examples` of what is left (None, or
    more than there are: all).  `report` are the development rows, the same `task.report_rows` of them for all.
    """
    if task not in TASKS:
        msg = f"no task {task!r}; the tasks are {', '.join(TASKS)}"
        raise ValueError(msg)
    for name, number in (("examples", examples), ("tune_rows", tune_rows)):
        if number is not None and number < 1:
            msg = f"{name} must be at least 1, got {number}"
            raise ValueError(msg)
    spec = TASKS[task]
    rows, report = source.rows(spec, "train"), source.rows(spec, "validation")
    tune = _fixed(rows, min(tune_rows, len(rows) // 4), _TUNE_SEED)
    held_back = {_key(spec, row) for row in tune}
    train = [row for row in rows if _key(spec, row) not in held_back]
    if not tune or not train:
        msg = (
            f"{len(rows)} training rows of the task {task} cannot be split in two; give at least 4 with different texts"
        )
        raise ValueError(msg)
    if examples is not None and examples < len(train):
        train = random.Random(seed).sample(train, examples)  # noqa: S311  # no secret
    return Splits(train, tune, _fixed(report, spec.report_rows, _REPORT_SEED))


def _fixed(rows: Sequence[Row], size: int | None, seed: int) -> list[Row]:
    """`size` of the rows, in their order: all where there are no more."""
    if size is None or size >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), size))]  # noqa: S311  # no secret


def _key(task: Task, row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in task.texts)


def _single(name: str, metric: str, description: str, labels: tuple[str, ...]) -> Task:
    hub = Hub("nyu-mll/glue", name, columns=(("text", "sentence"),))
    return Task(
        name=name,
        kind="classification",
        metric=metric,
        description=description,
        labels=labels,
        hub=hub,
        folder=Folder(name),
    )


def _pair(
    name: str,
    metric: str,
    description: str,
    labels: tuple[str, ...],
    columns: tuple[str, str] = ("sentence1", "sentence2"),
    *,
    repository: str = "nyu-mll/glue",
    validation: str = "validation",
    folder: Folder | None = None,
    report_rows: int | None = None,
    note: str = "",
) -> Task:
    return Task(
        name=name,
        kind="classification",
        metric=metric,
        description=description,
        labels=labels,
        second_text="{text_pair}",
        hub=Hub(repository, name, validation, tuple(zip(("text", "text_pair"), columns, strict=True))),
        folder=folder or Folder(name),
        report_rows=report_rows,
        note=note,
    )


_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_YES = ("no", "yes")
_SUPERGLUE = "aps/super_glue"
_PRINTED_F1 = "The paper prints F1, but its numbers are accuracies"
_PAPER_ROWS = 1000  # that the paper's code scores of QQP and of every task of a language model

_GLUE = (
    _single("sst2", "accuracy", "whether a phrase of a film review is positive", ("negative", "positive")),
    _single("cola", "matthews", "whether a sentence is grammatical", ("unacceptable", "acceptable")),
    _pair("mrpc", "f1", "whether two sentences mean the same", ("not_equivalent", "equivalent")),
    _pair("rte", "accuracy", "whether a sentence follows from another", _ENTAILMENT),
    Task(
        name="stsb",
        kind="regression",
        metric="spearman",
        description="how alike two sentences are, from 0 to 5",
        second_text="{text_pair}",
        range=(0.0, 5.0),
        hub=Hub("nyu-mll/glue", "stsb", columns=(("text", "sentence1"), ("text_pair", "sentence2"))),
        folder=Folder("stsb"),
    ),
    _pair(
        "qnli",
        "accuracy",
        "whether a sentence answers a question",
        _ENTAILMENT,
        ("question", "sentence"),
        folder=Folder("qnli_10k"),
        report_rows=1000,
        note="1,000 of the 5,463 development rows are scored. In the data folder, 9,999 of the training rows.",
    ),
    _pair(
        "mnli",
        "accuracy",
        "whether a sentence follows from another, or contradicts it",
        _THREE_WAY,
        ("premise", "hypothesis"),
        validation="validation_matched",
        folder=Folder("mnli_10k"),
        note="In the data folder, 9,999 of the training rows: 8,999 to train on, and 1,000 in place of the matched "
        "development rows.",
    ),
    _pair(
        "qqp",
        "f1",
        "whether two questions ask the same",
        ("not_duplicate", "duplicate"),
        ("question1", "question2"),
        folder=Folder("qqp_10k"),
        report_rows=_PAPER_ROWS,
        note="1,000 development rows are scored, as by the paper's code. In the data folder, 9,999 of the training "
        "rows: 8,999 to train on, and 1,000 in place of the development rows.",
    ),
)

_CLASSIFIED = (
    _pair(
        "cb",
        "accuracy",
        "whether a speaker holds a clause for true",
        ("entailment", "contradiction", "neutral"),
        ("premise", "hypothesis"),
        repository=_SUPERGLUE,
        folder=Folder("cb", train="train_and_test"),
        note=f"{_PRINTED_F1}. In the data folder, the training rows are the official training and test rows, 250 each.",
    ),
    _pair(
        "boolq",
        "accuracy",
        "a yes-or-no question on a passage",
        _YES,
        ("passage", "question"),
        repository=_SUPERGLUE,
        folder=Folder("boolq_resplit"),
        report_rows=_PAPER_ROWS,
        note="1,000 development rows are scored, as by the paper's code. In the data folder, all rows are official "
        "development rows: 2,000 to train on, 1,270 to report on.",
    ),
    Task(
        name="wsc",
        kind="classification",
        metric="accuracy",
        description="whether a pronoun stands for a noun",
        labels=_YES,
        second_text='Does "{span2_text}" stand for "{span1_text}"?',
        hub=Hub(_SUPERGLUE, "wsc.fixed"),
        folder=Folder("wsc", train="train_fewshot64"),
        note=f"{_PRINTED_F1}. In the data folder, 64 of the 554 training rows.",
    ),
    Task(
        name="trec",
        kind="classification",
        metric="accuracy",
        description="what a question asks for",
        labels=("description", "entity", "abbreviation", "human", "location", "number"),
        folder=Folder("trec", validation="test"),
        note="Not in the paper.",
    ),
    Task(
        name="subj",
        kind="classification",
        metric="accuracy",
        description="whether a sentence states a fact or a view",
        labels=("subjective", "objective"),
        folder=Folder("subj", validation="test"),
        note="Not in the paper.",
    ),
    Task(
        name="agnews",
        kind="classification",
        metric="accuracy",
        description="the topic of a piece of news",
        labels=("World", "Sports", "Business", "Sci/Tech"),
        hub=Hub("fancyzhx/ag_news", validation="test"),
        folder=Folder("ag_news_2k"),
        note="Not in the paper. In the data folder, 1,000 rows to train on and 1,000 to report on.",
    ),
)

_LANGUAGE = (
    Task(
        name="copa",
        kind="choice",
        metric="accuracy",
        description="which of two sentences is the cause, or the effect",
        hub=Hub(_SUPERGLUE, "copa"),
        folder=Folder("copa"),
    ),
    Task(
        name="record",
        kind="answer",
        metric="exact_match",
        description="which name a sentence on the news leaves out",
        hub=Hub(_SUPERGLUE, "record", columns=(("context", "passage"), ("question", "query"))),
        report_rows=_PAPER_ROWS,
        note="1,000 development rows are scored, as by the paper's code. The answer is written freely, where the paper "
        "picks one of the names in the text. Not in the data folder.",
    ),
    Task(
        name="squad",
        kind="answer",
        metric="token_f1",
        description="a question that words of a passage answer",
        hub=Hub("rajpurkar/squad", columns=(("answers", "answers.text"),)),
        folder=Folder("squad_xquad_en"),
        report_rows=_PAPER_ROWS,
        note="1,000 development rows are scored, as by the paper's code. In the data folder, 1,190 development rows of "
        "SQuAD 1.1: 839 to train on, 351 on other articles to report on.",
    ),
    Task(
        name="drop",
        kind="answer",
        metric="token_f1",
        description="a question on a passage that takes counting",
        hub=Hub("ucinlp/drop", columns=(("context", "passage"), ("answers", "answers_spans.spans"))),
        folder=Folder("drop_4k"),
        report_rows=_PAPER_ROWS,
        note="1,000 development rows are scored, as by the paper's code. In the data folder, 4,000 development rows: "
        "3,000 to train on, 1,000 on other passages to report on. An answer of several parts counts by its best part.",
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in (*_GLUE, *_CLASSIFIED, *_LANGUAGE)}
