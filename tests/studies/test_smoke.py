"""The whole study at the smallest size, as a user runs it: runs, report, resuming, and the same numbers again."""

import gzip
import json
import random
from pathlib import Path

import pytest

from benchmarks.paper.__main__ import main
from benchmarks.paper.cells import Cell
from benchmarks.paper.profiles.smoke import PROFILE
from benchmarks.paper.results import read
from benchmarks.paper.sources import FolderSource
from benchmarks.paper.training import run_cell

WORDS = ("the", "film", "is", "a", "long", "quiet", "story", "of", "good", "and", "bad", "people", "who", "met")


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    file = folder / f"{name}.jsonl.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)


def phrase(generator: random.Random, words: int) -> str:
    return " ".join(generator.choices(WORDS, k=words))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of made-up rows in the form of the study's data."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(0)  # noqa: S311  # no secret
    for split, size in (("train", 64), ("validation", 24)):
        for task in ("sst2", "cola"):
            rows = [{"text": phrase(generator, 3 + i % 7), "text_pair": None, "label": i % 2} for i in range(size)]
            write(folder / task, split, rows)
        choices = [
            {
                "premise": phrase(generator, 5),
                "question": generator.choice(["cause", "effect"]),
                "choice1": phrase(generator, 3),
                "choice2": phrase(generator, 4),
                "label": i % 2,
            }
            for i in range(size)
        ]
        write(folder / "copa", split, choices)
        questions = [
            {"context": phrase(generator, 8), "question": phrase(generator, 4), "answers": [phrase(generator, 2)]}
            for _ in range(size)
        ]
        write(folder / "squad_xquad_en", split, questions)
    return folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("study") / "smoke.jsonl"
    assert run(data, file) == 0
    return file


def run(data: Path, file: Path) -> int:
    return main(["run", "--profile", "smoke", "--data", str(data), "--results", str(file), "--workers", "1"])


def test_every_cell_has_a_result(results):
    lines = read(results)
    cells = {key for cells in PROFILE.tuning.values() for key in (cell.key for cell in cells)}
    assert cells <= lines.keys()
    assert len(lines) == len(cells) + len({cell for study in PROFILE.studies.values() for cell in study})
    assert {line.outcome["status"] for line in lines.values()} == {"finished"}
    assert all(line.outcome["parameters"]["total"] > 0 for line in lines.values())


def test_a_finished_study_is_not_run_again(data, results):
    before = results.read_bytes()
    assert run(data, results) == 0
    assert results.read_bytes() == before


@pytest.mark.parametrize(("model", "method"), [("tiny-bert", "loretta-adp"), ("tiny-llama", "loretta-rep")])
def test_a_cell_run_again_gives_the_same_numbers(data, results, model, method):
    line = next(line for line in read(results).values() if (line.cell.model, line.cell.method) == (model, method))
    again = run_cell(Cell.from_json(line.cell.to_json()), FolderSource(str(data)))
    for name in ("status", "scores", "loss", "losses", "curve", "after_each", "parameters"):
        assert again[name] == line.outcome[name]


def test_the_report_is_written_from_the_results(results, tmp_path):
    page = tmp_path / "evidence-smoke.md"
    assert main(["report", "--profile", "smoke", "--results", str(results), "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "LoRETTA" in text
    for picture in [line.split("](")[1].split(")")[0] for line in text.splitlines() if line.startswith("![")]:
        assert (tmp_path / picture).stat().st_size > 1000
