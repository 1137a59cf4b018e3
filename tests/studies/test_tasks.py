"""The tasks as data, and how their rows are split."""

import doctest
import os
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper import tasks
from benchmarks.paper.metrics import METRICS
from benchmarks.paper.sources import HubSource, source_from
from benchmarks.paper.tasks import TASKS, Folder, load_splits
from tests.studies.rows import ROWS, of_fixed_rows, rows_of

DATA = os.environ.get("TTLIB_STUDY_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set TTLIB_STUDY_DATA to the folder of data")

# What a task is


def test_tasks_are_complete():
    assert {
        "mnli",
        "sst2",
        "mrpc",
        "cola",
        "qnli",
        "qqp",
        "rte",
        "stsb",
        "cb",
        "boolq",
        "wsc",
        "copa",
        "record",
    } <= set(TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert task.metric in METRICS
        assert bool(task.labels) == (task.kind == "classification")
        assert task.hub or task.folder
        assert task.description
        assert task.note == "" or task.note.endswith(".")
        hash(task)  # rows are kept by task


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(tasks) == (0, 1)


def test_metrics_are_those_of_the_papers_table_8():
    expected = {
        "mnli": "accuracy", "sst2": "accuracy", "qnli": "accuracy", "rte": "accuracy",
        "cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "spearman",
        "cb": "accuracy", "wsc": "accuracy", "copa": "accuracy", "squad": "token_f1", "drop": "token_f1",
    }  # fmt: skip
    assert {name: TASKS[name].metric for name in expected} == expected


def test_a_note_says_so_where_the_folder_does_not_hold_the_official_rows():
    for task in TASKS.values():
        if task.folder and task.folder != Folder(task.name) and task.name not in {"trec", "subj"}:
            assert "In the data folder" in task.note, task.name
        assert not task.report_rows or f"{task.report_rows:,}" in task.note, task.name


# Splits

TEXTS = st.lists(st.integers(0, 60), min_size=8, max_size=80).filter(
    lambda numbers: len(set(numbers)) > len(numbers) // 2
)


@given(TEXTS, st.integers(0, 5), st.integers(1, 40), st.integers(1, 100))
def test_train_and_tune_share_no_text_and_only_train_depends_on_the_seed(numbers, seed, tune_rows, examples):
    rows = [ROWS["regression"](number) for number in numbers]
    source = of_fixed_rows(rows, rows[:5])
    splits = load_splits("stsb", source, seed=seed, examples=examples, tune_rows=tune_rows)
    whole = load_splits("stsb", source, seed=seed + 1, tune_rows=tune_rows)
    assert splits.tune == whole.tune
    assert splits.report == whole.report == rows[:5]
    assert len(splits.tune) == min(tune_rows, len(rows) // 4)
    assert not {row["text"] for row in splits.tune} & {row["text"] for row in whole.train}
    assert len(splits.train) == min(examples, len(whole.train))
    drawn, available = (Counter(row["text"] for row in side) for side in (splits.train, whole.train))
    assert drawn <= available  # none drawn twice
    # nothing is lost but the twins of tune
    tuned = {row["text"] for row in splits.tune}
    assert available == Counter(
        {text: n for text, n in Counter(row["text"] for row in rows).items() if text not in tuned}
    )


def test_the_seed_draws_the_examples():
    source = of_fixed_rows(rows_of("sst2", 400), rows_of("sst2", 5))
    one, again, other = (load_splits("sst2", source, seed=seed, examples=50).train for seed in (1, 1, 2))
    assert one == again
    assert one != other
    # the same on every machine and Python: the numbers of a study depend on it
    assert [row["text"] for row in one[:3]] == ["One 86.", "One 385.", "One 40."]


def test_a_long_development_set_is_cut_to_the_same_rows_in_order_for_all():
    source = of_fixed_rows(rows_of("qnli", 100), rows_of("qnli", 1500))
    report, other = (load_splits("qnli", source, seed=seed).report for seed in (0, 1))
    assert report == other
    numbers = [int(row["text"].removeprefix("One ").rstrip(".")) for row in report]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 1000
    assert numbers[-1] > 1000  # not just the first ones


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (100, {"examples": 0}, "examples must be at least 1, got 0"),
        (100, {"tune_rows": 0}, "tune_rows must be at least 1, got 0"),
        (3, {}, "3 training rows of the task sst2 cannot be split in two; give at least 4"),
    ],
)
def test_splits_that_cannot_be(count, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_splits("sst2", of_fixed_rows(rows_of("sst2", count), rows_of("sst2", 3)), seed=0, **arguments)


def test_rows_of_one_text_cannot_be_split():
    same = [{"text": "one", "text_pair": None, "label": i % 2} for i in range(8)]
    with pytest.raises(ValueError, match="give at least 4 with different texts"):
        load_splits("sst2", of_fixed_rows(same, same), seed=0)


def test_an_unknown_task_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match="no task 'sst3'; the tasks are sst2, cola"):
        load_splits("sst3", HubSource(), seed=0)


# The real rows


@needs_data
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.folder])
def test_real_rows_fit_their_task(name):
    task, source = TASKS[name], source_from(DATA)
    splits = load_splits(name, source, seed=0, examples=1000)
    assert splits.train
    assert splits.tune
    for row in source.rows(task, "validation"):
        if "label_text" in row:
            assert row["label_text"] in {
                task.labels[row["label"]],
                {"no": "false", "yes": "true"}.get(task.labels[row["label"]]),
            }


@needs_data
def test_real_splits_have_the_sizes_that_the_notes_say_and_are_quick():
    began = time.process_time()
    sizes = {
        name: len(load_splits(name, source_from(DATA), seed=0).report)
        for name in ("sst2", "rte", "qnli", "squad", "drop")
    }
    assert sizes == {"sst2": 872, "rte": 277, "qnli": 1000, "squad": 351, "drop": 1000}
    assert time.process_time() - began < 5
