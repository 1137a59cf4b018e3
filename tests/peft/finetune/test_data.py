from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from transformers import AutoTokenizer

from ttlib_peft.finetune import FinetuneError, FinetuneSettings
from ttlib_peft.finetune.data import Rows, encode, load_data, split_off
from ttlib_peft.finetune.labels import class_names, label_strings

SST2 = Path(__file__).parents[4] / "shared" / "data" / "sst2"

Load = Callable[..., Any]
MakeRows = Callable[..., list[dict[str, Any]]]
WriteJsonl = Callable[[Path, list[dict[str, Any]]], Path]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_from(data: Path | str, **options: Any) -> Any:
        return load_data(FinetuneSettings(output=tmp_path / "out", data=str(data), **options))

    return load_from


def write_as(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pd.DataFrame(rows)
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    writers: dict[str, Callable[[], object]] = {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: frame.to_parquet(path),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "json": lambda: frame.to_json(path, orient="records"),
    }
    writers[kind]()
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(
    tmp_path: Path, load: Load, name: str, make_rows: MakeRows, write_jsonl: WriteJsonl
) -> None:
    expected = load(write_jsonl(tmp_path / "reference.jsonl", make_rows(20)))
    found = load(write_as(tmp_path / name, make_rows(20)))
    assert found == expected
    assert found.fingerprint == expected.fingerprint
    assert found.label_names == ("sport", "tech")
    assert (len(found.train), len(found.evaluation)) == (16, 4)


def test_words_that_pandas_takes_for_missing_values_stay_words(tmp_path: Path, load: Load, make_rows: MakeRows) -> None:
    data = load(write_as(tmp_path / "a.csv", [{"text": t, "label": "NA"} for t in ("NA", "null", "x")] + make_rows(6)))
    assert {"NA", "null"} <= {*data.train.texts, *data.evaluation.texts}
    assert data.label_names == ("NA", "sport", "tech")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([2, 10, 9], ("2", "9", "10")),
        (["b", "a", "c"], ("a", "b", "c")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_labels_are_numbered_in_a_fixed_order(labels: list[Any], names: tuple[str, ...]) -> None:
    strings = label_strings(labels, feature=None, column="label", split="train")
    assert class_names(strings, feature=None) == names


def test_the_class_names_of_a_hub_data_set_are_kept() -> None:
    feature = datasets.ClassLabel(names=["world", "business", "art"])
    strings = label_strings([2, 0, 2], feature=feature, column="label", split="train")
    assert strings == ["art", "world", "art"]
    assert class_names(strings, feature=feature) == ("world", "art")
    with pytest.raises(FinetuneError, match=r"1 rows without a label among 3 \(first at row index 1\)"):
        label_strings([2, -1, 2], feature=feature, column="label", split="test")


def test_a_folder_uses_its_own_evaluation_split(tiny_data: str, load: Load) -> None:
    assert len(load(tiny_data).evaluation) == 16
    assert len(load(tiny_data, eval_fraction=0.25).evaluation) == 10
    swapped = load(tiny_data, train_split="validation", eval_split="train")
    assert (len(swapped.train), len(swapped.evaluation)) == (16, 40)


def test_pairs_are_encoded_as_pairs(
    tmp_path: Path, load: Load, tiny_model: str, make_rows: MakeRows, write_jsonl: WriteJsonl
) -> None:
    rows = [{**row, "second": "a robot"} for row in make_rows(8)]
    data = load(write_jsonl(tmp_path / "pairs.jsonl", rows), text_pair_column="second")
    tokens = encode(data.evaluation, AutoTokenizer.from_pretrained(tiny_model), max_length=32)
    assert set(tokens[0]["token_type_ids"]) == {0, 1}
    assert tokens["labels"] == list(data.evaluation.labels)


def test_encoding_by_length_only_reorders(tiny_data: str, load: Load, tiny_model: str) -> None:
    rows = load(tiny_data).train
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plain, sorted_ = (encode(rows, tokenizer, max_length=8, by_length=flag) for flag in (False, True))
    lengths = [len(ids) for ids in sorted_["input_ids"]]
    assert lengths == sorted(lengths)
    assert max(lengths) == 8
    assert Counter(map(str, plain)) == Counter(map(str, sorted_))


def test_the_held_out_rows_depend_on_the_texts_alone(make_rows: MakeRows) -> None:
    rows = make_rows(60)
    labels = [int(row["label"] == "tech") for row in rows]
    forwards = Rows(tuple(row["text"] for row in rows), None, tuple(labels))
    backwards = forwards.take(range(59, -1, -1))
    held_out = [split_off(order, fraction=0.2)[1] for order in (forwards, backwards)]
    assert set(held_out[0].texts) == set(held_out[1].texts)
    assert Counter(held_out[0].labels) == {0: 6, 1: 6}


def test_equal_texts_never_straddle_the_split() -> None:
    rows = Rows(tuple(f"text {index // 5}" for index in range(100)), None, tuple(index % 2 for index in range(100)))
    train, held_out = split_off(rows, fraction=0.3)
    for label in (0, 1):
        texts = [{text for text, other in zip(part.texts, part.labels, strict=True) if other == label}
                 for part in (train, held_out)]  # fmt: skip
        assert not texts[0] & texts[1]


def test_a_text_in_both_splits_is_counted(
    tmp_path: Path, load: Load, make_rows: MakeRows, write_jsonl: WriteJsonl
) -> None:
    write_jsonl(tmp_path / "train.jsonl", make_rows(10))
    write_jsonl(tmp_path / "test.jsonl", make_rows(4) + make_rows(6, seed=9))
    assert load(tmp_path).leaked == 4


GOOD = [{"text": "x", "label": 0}, {"text": "y", "label": 1}]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"train.txt": "x"}, {}, "holds no data file; expected e.g. train.jsonl"),
        ({"train.jsonl": GOOD, "train.json": GOOD}, {}, "holds both train.json and train.jsonl for split 'train'"),
        ({"train.jsonl": GOOD}, {"train_split": "training"}, "no split 'training'"),
        ({"train.jsonl": GOOD}, {"eval_split": "test"}, "there are: train. Set eval_split"),
        ({"train.jsonl": GOOD}, {"text_column": "sentence"}, "no column 'sentence' in split 'train'"),
        ({"train.jsonl": GOOD}, {"text_column": "sentence"}, "the columns there are text, label"),
        ({"train.jsonl": GOOD}, {"text_pair_column": "hypothesis"}, "no column 'hypothesis'"),
        ({"train.jsonl": GOOD[:1]}, {}, "only one class ('0')"),
        ({"train.jsonl": GOOD}, {}, "evaluation split is empty: no class has two different texts among 2 rows"),
        ({"train.csv": "text,label\n"}, {}, "train.csv holds no rows that can be read as csv"),
        ({"train.jsonl": GOOD, "test.csv": "text,label\n"}, {}, "test.csv holds no rows that can be read as csv"),
        ({"train.csv": ""}, {}, "holds no rows that can be read as csv: EmptyDataError"),
        ({"train.jsonl": "{nonsense"}, {}, "holds no rows that can be read as json"),
        (
            {"train.jsonl": [*GOOD, {"text": " ", "label": 1}, {"text": None, "label": 1}]},
            {},
            "has 2 empty texts among 4 rows (first at row index 2)",
        ),
        (
            {"train.jsonl": [*GOOD, {"text": "z", "label": None}]},
            {},
            "1 rows without a label among 3 (first at row index 2)",
        ),
        ({"train.jsonl": [{"text": 1, "label": 0}, {"text": 2, "label": 1}]}, {}, "must hold texts, but row index 0 is 1"),
        ({"train.jsonl": [{"text": "x", "label": 0.5}]}, {}, "must hold strings or whole numbers, but row index 0 is 0.5"),
        (
            {"train.jsonl": GOOD, "test.jsonl": [{"text": "z", "label": 2}]},
            {},
            "split 'test' has the label '2' that split 'train' does not have (its labels: 0, 1)",
        ),
    ],
)  # fmt: skip
def test_unusable_data_are_refused(
    tmp_path: Path, load: Load, files: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        (folder / name).write_text(text)
    with pytest.raises(FinetuneError) as caught:
        load(folder, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("rows.jsonl", "data rows.jsonl not found"),
        ("./rows", "data ./rows not found"),
        ("a/b/c", "data a/b/c not found"),
    ],
)
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_name(load: Load, data: str, message: str) -> None:
    with pytest.raises(FinetuneError, match=message):
        load(data)


def test_a_hub_name_out_of_reach_says_why(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(FinetuneError, match="neither a local path nor a hub data set that can be loaded: "):
        load("someone/some-data:config")


def test_a_file_of_an_unknown_kind_lists_the_known(tmp_path: Path, load: Load) -> None:
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(FinetuneError, match=r"unknown kind; readable are .csv, .tsv, .jsonl, .json, .parquet"):
        load(tmp_path / "rows.xlsx")


def test_nothing_is_left_of_reading_a_gzip_file(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, make_rows: MakeRows
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in make_rows(8)).encode()))
    load(file)
    assert list(temporary.iterdir()) == []
    assert [path.name for path in tmp_path.glob("*.gz*")] == ["rows.jsonl.gz"]


@pytest.mark.skipif(not SST2.is_dir(), reason="the shared data folder beside the checkout is absent")
def test_a_real_data_set_with_gzip_files(load: Load) -> None:
    data = load(SST2)
    assert (len(data.train), len(data.evaluation), data.label_names) == (67_349, 872, ("0", "1"))
    with pytest.raises(FinetuneError, match="column 'text_pair' of split 'train' has 67349 empty texts"):
        load(SST2, text_pair_column="text_pair")
