"""The paper's own models and recipes: counts against closed formulas, budgets, and the dry run with all that it finds."""

import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper.cells import Budget, Cell, options
from benchmarks.paper.paper_rows import ROWS, TABLES, PaperRow
from benchmarks.paper.profile import Profile
from benchmarks.paper.profiles import paper
from benchmarks.paper.rehearsal import rehearse
from benchmarks.paper.sizes import PaperCount, build, forward, paper_counts, ratios, trained_parameters
from benchmarks.paper.sources import FolderSource
from benchmarks.paper.tasks import TASKS


def train(modes, rank):
    """The numbers of a tensor train with the same rank at every bond."""
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return sum(left * mode * right for left, mode, right in zip(ranks, modes, ranks[1:], strict=False))


def adapter(modes, rank, hidden):
    return 2 * train(modes, rank) + 64 + hidden


LAST, POOLER = 2 * 768 + 2, 768 * 768 + 768
NORMS = {"base": 25 * 2 * 768, "7b": 65 * 4096, "13b": 81 * 5120, "70b": 161 * 8192}
TT_POOLER = {rank: train([12, 8, 8, 8, 8, 12], rank) + 768 for rank in (2, 5)}
ADP = {rank: 24 * adapter([8, 8, 12, 8, 8], rank, 768) for rank in (2, 5)}
REP = 12 * (train([8, 8, 12, 8], 5) + train([8, 8, 8, 4, 9], 5))

EXPECTED = [
    ("t1-deberta", 2, 12 * 8 * (768 + 2304) + LAST),
    ("t1-deberta", 3, 20 * 768 + (768 * 128 + 128) + (128 * 128 + 128) + (128 * 768 + 768) + LAST),
    ("t1-deberta", 1, 24 * (2 * 768 * 8 + 8 + 768) + NORMS["base"] + POOLER + LAST),
    ("t1-deberta", 8, ADP[5] + NORMS["base"] + TT_POOLER[5] + LAST),
    ("t1-deberta", 9, REP + NORMS["base"] + TT_POOLER[5]),
    ("t1-roberta", 3, 24 * 2 * train([8, 8, 12, 8], 5) + NORMS["base"] + TT_POOLER[5]),
    ("t2", 1, 32 * 3 * 2 * 4096 * 64),
    ("t2", 3, 5 * 2 * 32 * 4096),
    ("t2", 4, 32 * (4096 + 4096 + 11008)),
    ("t2", 5, 64 * 2 * train([8, 8, 8, 8, 4, 4], 8) + NORMS["7b"]),
    ("t2", 6, 96 * adapter([16, 16, 16, 4, 4, 4], 5, 4096) + NORMS["7b"]),
    ("t3-13b", 4, 120 * adapter([5, 8, 8, 16, 8, 8], 8, 5120) + NORMS["13b"]),
    ("t3-13b", 0, 40 * 3 * 2 * 5120 * 64 + NORMS["13b"]),
    ("t3-70b", 1, 80 * 8 * (3 * 8192 + 1024)),
    ("t3-70b", 3, 668_160 + NORMS["70b"]),
    ("t3-70b", 4, 240 * adapter([16, 16, 16, 8, 4, 4], 8, 8192) + NORMS["70b"]),
    ("t6", 0, ADP[2] + NORMS["base"] + TT_POOLER[2] + LAST),
    ("t7", 1, 24 * adapter([64, 12, 64], 5, 768) + NORMS["base"] + TT_POOLER[5] + LAST),
    ("t11", 2, ADP[5] + POOLER + LAST),
    ("t11", 11, REP),
]


@pytest.mark.parametrize(("table", "at", "expected"), EXPECTED)
def test_counts_of_the_paper(table, at, expected):
    row = TABLES[table][at]
    count = PaperCount(row, trained_parameters(row.setting))
    assert count.trained["total"] == expected
    assert count.problem is None


@pytest.mark.slow
def test_every_row_is_as_printed_or_says_why():
    counts = paper_counts()
    assert [count.problem for count in counts if count.problem] == []
    off = {(count.row.table, count.row.model, count.row.method) for count in counts if count.as_printed is False}
    assert off == {
        ("Table 1", "roberta-base", "lora-8"),
        ("Table 2", "llama-2-7b", "ia3"),
        ("Table 3", "llama-2-70b", "loretta-adp"),
        ("Table 6", "deberta-base", "loretta-adp"),
        ("Table 6", "deberta-base", "loretta-rep"),
    }


def test_the_factors_of_the_paper():
    times = {(own["than"], own["of"]): own["times"] for own in ratios(paper_counts(TABLES["t2"]))}
    assert round(times["adapters-64", "loretta-adp"], 1) == 57.4
    assert round(times["lora-8", "loretta-adp"], 1) == 4.8
    assert round(times["adapters-64", "loretta-rep"]) == 99
    assert len(times) == 4


@given(st.integers(1, 10**10), st.integers(0, 3))
def test_rounded_and_cut_off_counts_are_as_printed(parameters, decimals):
    unit = 10 ** (6 - decimals)
    below = parameters // unit
    for printed in (below, below + 1):
        row = PaperRow("Table 1", "deberta-base", "full", printed=f"{printed / 10**decimals:.{decimals}f}")
        assert row.is_as_printed(parameters) == (abs(parameters - printed * unit) < unit)
    beyond = PaperRow("Table 1", "deberta-base", "full", printed=f"{(below + 2) / 10**decimals:.{decimals}f}")
    assert not beyond.is_as_printed(parameters)


def test_a_difference_without_a_reason_is_a_problem():
    row = PaperRow("Table 1", "deberta-base", "full", printed="1.00")
    assert "2,000,000 are trained, 1.00M are printed" in PaperCount(row, {"total": 2_000_000}).problem
    assert "nothing says why" in PaperCount(row, {"total": 2_000_000}).verdict


def test_a_reason_without_a_difference_is_a_problem():
    row = PaperRow("Table 1", "deberta-base", "full", printed="1.00", differs="it is another model")
    assert "take the reason why not out" in PaperCount(row, {"total": 1_000_000}).problem
    assert PaperCount(row, {"total": 2_000_000}).problem is None


def test_rows_that_print_nothing_are_no_problem():
    for table, verdict in (("Table 4", "no count printed"), ("", "not in the paper")):
        count = PaperCount(PaperRow(table, "deberta-base", "full"), {"total": 1})
        assert (count.as_printed, count.problem, count.verdict) == (None, None, verdict)


def test_labels_are_words():
    assert PaperRow("", "m", "lora-8").label == "lora-8"
    chosen = options(preset="m", shape=[64, 12], placement=[("up", "input"), ("down", "output")], bias=False)
    row = PaperRow("", "m", "adp", chosen)
    assert row.label == "adp bias=False placement=up input, down output shape=[64, 12]"


def test_a_model_of_seventy_billion_takes_no_memory():
    model = build(TABLES["t3-70b"][1].setting)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in model.parameters()) == 68_976_648_192 + 16_384_000


@pytest.mark.parametrize("at", [3, 6])
def test_rows_go_through_a_model_without_numbers(at):
    assert forward(build(TABLES["t2"][at].setting), rows=1, tokens=4) == (1, 4, 32_000)


@pytest.fixture(scope="module")
def cells():
    return [cell for own in paper.PROFILE.studies.values() for cell in own]


def test_every_run_has_a_rate_and_the_papers_steps(cells):
    sizes = {"sst2": (67_349, 20, 16), "cola": (8_551, 40, 32), "rte": (2_490, 40, 16), "squad": (1_000, 3, 1)}
    for cell in cells:
        assert cell.learning_rate > 0
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
        if cell.tasks[0] in sizes and len(cell.tasks) == 1:
            rows, epochs, batch = sizes[cell.tasks[0]]
            assert (cell.budget.steps, cell.budget.batch_size) == (epochs * math.ceil(rows / batch), batch)


def test_full_fine_tuning_has_its_own_rates(cells):
    rates = {(cell.model, cell.learning_rate) for cell in cells if cell.method == "full"}
    assert rates == {("deberta-base", 1e-6), ("llama-2-7b", 5e-6)}


def test_tables_have_the_papers_columns(cells):
    def tasks(study, model):
        return {task for cell in paper.PROFILE.studies[study] if cell.model == model for task in cell.tasks}

    assert tasks("t1", "roberta-base") == tasks("t1", "deberta-base") == set(paper.GLUE)
    assert tasks("lm", "llama-2-7b") == set(paper.LOW_DATA)
    assert tasks("lm", "llama-2-13b") == {"copa", "record", "squad", "drop"}
    assert tasks("lm", "llama-2-70b") == {"squad", "drop"}
    assert {cell.tasks for cell in paper.PROFILE.studies["t4"]} == {("sst2", "mrpc", "qnli")}
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert set(paper.TRAINING_ROWS) <= set(TASKS)


def test_a_study_has_each_run_once():
    for own in paper.PROFILE.studies.values():
        assert len({cell.key for cell in own}) == len(own)


def test_what_cannot_be_run_is_not_in_the_profile(cells):
    settings = {(cell.model, cell.method, cell.options) for cell in cells}
    kept = [row for row in ROWS if row.not_run]
    assert len(kept) == 1
    assert not settings & {row.setting for row in kept}
    assert settings == {row.setting for row in ROWS if not row.not_run}


ROW = {
    "sst2": [{"text": f"a film number {at}", "label": at % 2} for at in range(12)],
    "copa": [
        {"premise": f"It rained {at} hours.", "question": "effect", "choice1": "Wet.", "choice2": "Dry.", "label": 0}
        for at in range(12)
    ],
}


@pytest.fixture
def source(tmp_path):
    for task, rows in ROW.items():
        for split in ("train", "validation"):
            path = tmp_path / task / f"{split}.jsonl.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return FolderSource(str(tmp_path))


def profile(*cells):
    return Profile("small", "a few cells", studies={"t1": cells})


def cell(model="tiny-bert", method="head", task="sst2", **settings):
    return Cell(model, method, (task,), 0, Budget(steps=1, max_length=32), 1e-3, options=options(**settings))


def test_a_dry_run(source):
    said = []
    ours = profile(cell(), cell("tiny-llama", "lora-8", "copa"), cell("deberta-base", "lora-8"))
    assert rehearse(ours, source, rows=TABLES["t1-deberta"][6:7], echo=said.append) == []
    text = "\n".join(said)
    assert "Not run: transformers gives DeBERTa no past keys" in text
    assert "encoded with MiniLM's tokenizer in place of its own" in text
    assert "encoded with its own tokenizer" in text


@pytest.mark.parametrize(
    ("added", "rows", "problem"),
    [
        ([cell(method="lora-8", no_such=1)], (), "tiny-bert, lora-8 no_such=1 cannot be built: MethodError"),
        ([cell(task="trec")], (), "the rows of trec are neither in the source nor on the hub"),
        ([cell(task="copa")], (), "rows of copa cannot be encoded for tiny-bert: KeyError"),
        ([], (PaperRow("Table 1", "tiny-bert", "head", printed="7.00"),), "are trained, 7.00M are printed"),
        ([], (PaperRow("", "tiny-bert", "head", not_run="it is slow"),), "it can be run; take out of paper_rows.py"),
        ([], (PaperRow("", "deberta-base", "prefix"),), "prefix cannot be built: ValueError"),
    ],
)
def test_a_dry_run_says_what_is_wrong_and_goes_on(source, added, rows, problem):
    said = []
    problems = rehearse(profile(*added, cell()), source, rows=rows, echo=said.append)
    assert len(problems) == 1
    assert problem in problems[0]
    assert any(line.startswith("sst2") and "encoded" in line for line in said)


def test_rows_that_only_the_hub_has_are_named(source):
    said = []
    assert rehearse(profile(cell(task="mrpc"), cell()), source, echo=said.append) == []
    assert any("needs the hub: nyu-mll/glue:mrpc" in line for line in said)


@pytest.mark.slow
def test_the_dry_run_of_the_paper(source):
    said = []
    assert paper.dry_run(source, said.append) == []
    assert f"- {paper.DEPARTURES[0]}" in said
