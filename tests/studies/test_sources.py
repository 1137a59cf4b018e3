"""The three kinds of sources: what they give, and what they refuse."""

import gzip
import hashlib
import json
import pickle

import pandas as pd
import pytest

from benchmarks.paper.sources import FilesSource, FolderSource, HubSource, source_from
from benchmarks.paper.tasks import TASKS, Hub, Task, load_splits
from tests.studies.rows import ROWS, rows_of, write_folder, write_gz


def copied(source):
    """What a process that trains gets."""
    return pickle.loads(pickle.dumps(source))  # noqa: S301  # our own


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.folder])
def test_every_task_of_a_folder_gives_rows_with_the_fields_that_its_kind_promises(tmp_path, name):
    write_folder(tmp_path, name)
    source = copied(source_from(str(tmp_path)))
    task = TASKS[name]
    for split, count in (("train", 20), ("validation", 7)):
        rows = source.rows(task, split)
        assert len(rows) == count
        assert all(set(task.fields) <= set(row) for row in rows)
        assert source.rows(task, split) is rows  # read once
    row = rows[1]
    if task.kind in {"classification", "regression"}:
        assert row["text"] == "One 1."
        assert (row["text_pair"] is None) == (task.second_text is None)
    else:
        assert row == ROWS[task.kind](1)


def test_the_second_text_of_wsc_asks_for_the_two_spans(tmp_path):
    spans = {"text": "Ann told Bea that she won.", "span1_text": "Bea {Lee}", "span2_text": "she", "label": 0}
    write_gz(tmp_path / "wsc" / "validation.jsonl.gz", [spans])
    (row,) = FolderSource(str(tmp_path)).rows(TASKS["wsc"], "validation")
    assert row["text_pair"] == 'Does "she" stand for "Bea {Lee}"?'


def test_line_separators_inside_of_a_text_do_not_end_a_row(tmp_path):
    path = tmp_path / "sst2" / "train.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress('{"text": "one\u2028two\x85three", "label": 1}\n'.encode()))
    (row,) = FolderSource(str(tmp_path)).rows(TASKS["sst2"], "train")
    assert row["text"] == "one\u2028two\x85three"


def test_a_manifest_catches_a_changed_file_and_lets_others_be(tmp_path):
    train, _ = write_folder(tmp_path, "sst2")
    digest = hashlib.sha256(train.read_bytes()).hexdigest()
    entries = [
        {"task": "sst2", "split": "train", "sha256": digest},
        {"task": "rte", "split": "validation", "sha256": "0" * 64},
    ]
    (tmp_path / "MANIFEST.json").write_text(json.dumps(entries))
    source = FolderSource(str(tmp_path))
    assert len(source.rows(TASKS["sst2"], "train")) == 20
    assert len(source.rows(TASKS["sst2"], "validation")) == 7  # not listed
    write_folder(tmp_path, "rte")
    with pytest.raises(
        ValueError, match=r"validation.jsonl.gz is not the file that MANIFEST.json lists.*fetch it again"
    ):
        source.rows(TASKS["rte"], "validation")


@pytest.mark.parametrize(
    ("manifest", "message"), [("[{}]", "no list of objects"), ("{", "not valid JSON"), ("3", "no list")]
)
def test_a_broken_manifest_is_named(tmp_path, manifest, message):
    write_folder(tmp_path, "sst2")
    (tmp_path / "MANIFEST.json").write_text(manifest)
    with pytest.raises(ValueError, match=f"MANIFEST.json is {message}"):
        FolderSource(str(tmp_path)).rows(TASKS["sst2"], "train")


def test_what_a_folder_does_not_have_is_named_with_the_way_to_get_it(tmp_path):
    source = FolderSource(str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"no file .*sst2/train.jsonl.gz with the train rows of the task sst2.*hub"
    ):
        source.rows(TASKS["sst2"], "train")
    with pytest.raises(
        FileNotFoundError, match="the task record has no rows in a folder of data; take them from the hub"
    ):
        load_splits("record", source, seed=0)
    with pytest.raises(FileNotFoundError, match=r"trec.*put it there$"):  # it is not on the hub
        source.rows(TASKS["trec"], "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "not a whole gzip file"),
        (gzip.compress(b'{"text": "a", "label": 1}')[:-9], "not a whole gzip file"),
        (gzip.compress(b"\xff"), "not a whole gzip file of UTF-8"),
        (gzip.compress(b'{"text": "a", "label": 1}\n{"text'), "line 2 of .* is not valid JSON"),
        (gzip.compress(b'["a", 1]'), "line 1 of .* give one JSON object a line"),
        (gzip.compress(b"\n"), "has no rows for the task sst2"),
    ],
    # By default the bytes, in which gzip writes the time: two test processes would not have the same tests.
    ids=["no gzip", "cut off", "no text", "no JSON", "no object", "no rows"],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "sst2" / "train.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        FolderSource(str(tmp_path)).rows(TASKS["sst2"], "train")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("sst2", {"text": None}, r"it has no 'text' \(its fields: text, text_pair, label"),
        ("sst2", {"text": 7}, "'text' is 7, no text"),
        ("sst2", {"text": " \t"}, "'text' are blank"),
        ("rte", {"text_pair": None}, "it has no 'text_pair'"),
        ("rte", {"text": "", "text_pair": ""}, "'text' and 'text_pair' are blank"),
        ("sst2", {"label": -1}, "'label' is -1, neither a number from 0 to 1 nor one of negative, positive"),
        ("sst2", {"label": 2}, "'label' is 2"),
        ("sst2", {"label": 0.5}, "'label' is 0.5"),
        ("sst2", {"label": "good"}, "'label' is 'good'"),
        ("sst2", {"label": None}, "it has no 'label'"),
        ("stsb", {"label": 5.1}, "'label' is 5.1, no number from 0 to 5"),
        ("stsb", {"label": float("nan")}, "'label' is nan"),
        ("stsb", {"label": "3"}, "'label' is '3'"),
        ("copa", {"choice2": None}, "it has no 'choice2'"),
        ("copa", {"label": 2}, "'label' is 2, neither a number from 0 to 1 nor one of choice1, choice2"),
        ("squad", {"answers": []}, r"'answers' is \[\], no list of texts"),
        ("squad", {"answers": "Rhine"}, "'answers' is 'Rhine', no list of texts"),
        ("squad", {"answers": ["Rhine", 3]}, "no list of texts"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, task, change, message):
    rows = rows_of(task, 3)
    rows[2] |= change
    write_gz(tmp_path / TASKS[task].folder.name / "train.jsonl.gz", rows)
    with pytest.raises(
        ValueError, match=rf"row index 2 of .* does not fit the task {task}: .*{message}.*; mend or remove it"
    ):
        FolderSource(str(tmp_path)).rows(TASKS[task], "train")


def test_one_empty_text_of_a_pair_is_let_in(tmp_path):  # the official QQP has some
    write_gz(tmp_path / "rte" / "train.jsonl.gz", [rows_of("rte", 1)[0] | {"text": ""}])
    assert FolderSource(str(tmp_path)).rows(TASKS["rte"], "train")[0]["text"] == ""


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_files_of_ones_own_with_label_names_or_numbers(tmp_path, kind):
    rows = [
        {"text": f"NA {i}", "text_pair": "null", "label": ("not_equivalent", "equivalent")[i % 2]} for i in range(8)
    ]
    numbered = [row | {"label": i % 2} for i, row in enumerate(rows)]
    write = {
        "csv": lambda frame, path: frame.to_csv(path, index=False),
        "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
        "json": lambda frame, path: frame.to_json(path, orient="records"),
        "parquet": lambda frame, path: frame.to_parquet(path),
    }[kind]
    write(pd.DataFrame(rows), tmp_path / f"a.{kind}")
    write(pd.DataFrame(numbered), tmp_path / f"b.{kind}")
    (tmp_path / "mine.json").write_text(json.dumps({"mrpc": {"train": f"a.{kind}", "validation": f"b.{kind}"}}))
    source = copied(source_from(str(tmp_path / "mine.json")))
    assert list(source.rows(TASKS["mrpc"], "train")) == numbered
    assert list(source.rows(TASKS["mrpc"], "validation")) == numbered


def test_what_files_of_ones_own_lack_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\ngood,positive\n")
    source = FilesSource.of({"sst2": {"train": str(tmp_path / "a.csv"), "validation": str(tmp_path / "b.csv")}})
    assert source.rows(TASKS["sst2"], "train") == ({"text": "good", "text_pair": None, "label": 1},)
    with pytest.raises(FileNotFoundError, match=r"no file .*b.csv with rows of the task sst2; put it there"):
        source.rows(TASKS["sst2"], "validation")
    with pytest.raises(FileNotFoundError, match="no file for the task rte, only for sst2; name its files too"):
        source.rows(TASKS["rte"], "train")
    with pytest.raises(FileNotFoundError, match="no file for the task rte, only for no task"):
        FilesSource.of({}).rows(TASKS["rte"], "train")
    pairs = FilesSource.of({"rte": {"train": str(tmp_path / "a.csv"), "validation": "none.csv"}})
    with pytest.raises(
        ValueError, match=r"a.csv does not fit the task rte: it has no 'text_pair' \(its fields: text, label\)"
    ):
        pairs.rows(TASKS["rte"], "train")


@pytest.mark.parametrize(
    "files", ["a.csv", {"train": "a.csv"}, {"train": "a", "validation": "b", "test": "c"}, ["a", "b"]]
)
def test_files_that_name_no_two_splits_are_refused(files):
    with pytest.raises(ValueError, match='files of the task sst2 are .*; give {"train": path, "validation": path}'):
        FilesSource.of({"sst2": files})


def test_rows_of_a_hub_are_renamed_and_stepped_into(tmp_path):
    """A folder stands in for the hub, its columns nested as there."""
    nested = [
        {"context": f"Rivers {i}.", "question": "Which?", "answers": {"text": ["Rhine"], "answer_start": [0]}}
        for i in range(9)
    ]
    pd.DataFrame(nested).to_parquet(tmp_path / "train.parquet")
    pd.DataFrame(nested[:3]).to_parquet(tmp_path / "dev.parquet")
    columns = (("answers", "answers.text"),)
    task = Task(
        name="q", kind="answer", metric="token_f1", description="", hub=Hub(str(tmp_path), None, "dev", columns)
    )
    train, dev = HubSource().rows(task, "train"), HubSource().rows(task, "validation")
    assert (len(train), len(dev)) == (9, 3)
    assert train[1] == {"context": "Rivers 1.", "question": "Which?", "answers": ["Rhine"]}
    wrong = Task(
        name="w",
        kind="answer",
        metric="token_f1",
        description="",
        hub=Hub(str(tmp_path), None, "dev", (("answers", "question.text"),)),
    )
    with pytest.raises(ValueError, match="it has no 'answers'"):
        HubSource().rows(wrong, "train")


def test_a_hub_out_of_reach_says_what_else_to_do():
    with pytest.raises(
        FileNotFoundError, match=r"the task sst2 cannot be had from the hub: .*nyu-mll/glue.*name a folder of data"
    ):
        HubSource().rows(TASKS["sst2"], "train")
    with pytest.raises(FileNotFoundError, match="the task subj is not on the hub; take its rows from"):
        HubSource().rows(TASKS["subj"], "train")


def test_what_data_means(tmp_path):
    assert source_from("hub") == HubSource()
    assert source_from(str(tmp_path)) == FolderSource(str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"no data named; give a folder with files <folder>/<task>/<split>.jsonl.gz"
    ):
        source_from(None)
    with pytest.raises(FileNotFoundError, match=r"no data at .*nowhere; give a folder"):
        source_from(str(tmp_path / "nowhere"))
    for text, message in (("[]", "holds list; give an object of tasks"), ("{", "is not valid JSON")):
        (tmp_path / "files.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            source_from(str(tmp_path / "files.json"))
