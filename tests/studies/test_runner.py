"""The runner, over real processes: order, learning rates, and resuming after any kind of end."""

import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper import pace
from benchmarks.paper.profile import TOLERANCE, Profile, UnknownStudyError, agenda, picks, resolve
from benchmarks.paper.results import Line, ResultsError, read
from benchmarks.paper.runner import run
from tests.studies import fake_cells
from tests.studies.fake_cells import BUDGET, METHODS, RATES, cells, finish, misbehave, outcome, profile, tuning

ROOT = Path(__file__).parents[2]


def line(cell, **changes):
    return Line(cell, outcome(cell) | changes, "abc", {})


def as_lines(found):
    return {own.key: own for own in found}


def scored(scores_by_cell):
    """Lines of runs with these scores on their only task; None: diverged."""
    return as_lines(
        line(cell, scores={cell.tasks[0]: score}) if score is not None else line(cell, status="diverged", scores={})
        for cell, score in scores_by_cell.items()
    )


def every_outcome(own):
    """What a whole run of a profile leaves behind, reckoned without the runner."""
    tuned = as_lines(line(cell) for group in own.tuning.values() for cell in group)
    studies = [cell for group in resolve(own, tuned).values() for cell in group]
    return {key: found.outcome for key, found in (tuned | as_lines(map(line, studies))).items()}


def outcomes(path):
    return {key: found.outcome for key, found in read(path).items()}


# Learning rates


# Means over two tasks are 0.015 apart, within the tolerance, or more.
@given(st.lists(st.none() | st.integers(-33, 33).map(lambda step: 0.03 * step), min_size=4, max_size=4))
def test_the_pick_is_the_smallest_rate_that_is_about_as_good_as_the_best(scores):
    lines = scored(dict(zip(tuning("lora-8"), scores, strict=True)))
    means = {
        rate: statistics.fmean(-math.inf if score is None else score for score in scores[at :: len(RATES)])
        for at, rate in enumerate(RATES)
    }
    assert TOLERANCE == 0.01
    small, large = RATES
    best = small if means[small] == means[large] or means[small] > means[large] - 0.01 else large
    assert picks(profile(t1=cells(("lora-8",))), lines) == {"minilm/lora-8": best}


def test_a_score_that_is_no_number_is_behind_all_others():
    first, second, *others = tuning("lora-8")
    lines = scored(dict.fromkeys(others, 0.5) | {first: 0.1, second: 0.9})
    lines[second.key].outcome["scores"] = {"sst2": None}
    assert picks(profile(t1=cells(("lora-8",))), lines) == {"minilm/lora-8": first.learning_rate}


def test_cells_wait_for_the_whole_tuning_of_their_own_method():
    own = profile(t1=cells())
    *most, last = tuning("lora-8")
    lines = as_lines(map(line, most))
    assert all(cell.learning_rate is None for cell in resolve(own, lines)["t1"])
    assert agenda(own, lines).waiting == cells()
    lines |= as_lines([line(last)])
    rates = {(cell.method, cell.learning_rate) for cell in resolve(own, lines)["t1"]}
    assert rates == {("lora-8", picks(own, lines)["minilm/lora-8"]), ("loretta-adp", None)}
    found = agenda(own, lines)
    assert [cell.method for cell in found.ready[:4]] == ["lora-8"] * 4
    assert found.ready[4:] == tuning("loretta-adp")
    assert {cell.method for cell in found.waiting} == {"loretta-adp"}
    assert len(found.done) == 4
    assert found.total == 16


def test_rates_that_are_given_are_kept_and_tuned_for_nothing():
    own = profile(t1=cells(learning_rate=0.5))
    assert agenda(own, {}).ready == resolve(own, {})["t1"] == cells(learning_rate=0.5)


def test_only_names_studies_and_brings_the_tuning_they_need():
    own = profile(t1=cells(("lora-8",)), t6=cells(("loretta-adp",)))
    found = agenda(own, {}, ["t6"])
    assert found.ready == tuning("loretta-adp")
    assert found.waiting == cells(("loretta-adp",))
    with pytest.raises(UnknownStudyError, match=r"'fake' has no study t7, t9; it has t1, t6"):
        agenda(own, {}, ["t9", "t6", "t7"])


def test_tasks_may_have_tunings_apart():
    single = cells(("lora-8",), ("sst2", "cola", "stsb", "rte"), (0,))
    sequence = replace(single[1], tasks=("cola", "stsb"))
    own = Profile(
        "fake",
        "",
        {"t1": single, "t4": (sequence,)},
        {f"minilm/lora-8/{task}": tuning("lora-8", (task,)) for task in ("sst2", "stsb")},
        {"sst2": "sst2", "cola": "sst2", "stsb": "stsb", "rte": "stsb"},
    )
    small, large = RATES
    best = {("sst2", large): 0.9, ("stsb", small): 0.9}
    cells_of_both = [cell for group in own.tuning.values() for cell in group]
    lines = scored({cell: best.get((cell.tasks[0], cell.learning_rate), 0.5) for cell in cells_of_both})
    found = resolve(own, lines)
    assert [cell.learning_rate for cell in found["t1"]] == [large, large, small, small]
    assert [cell.learning_rate for cell in found["t4"]] == [large]
    assert agenda(own, {}, ["t4"]).ready == own.tuning["minilm/lora-8/sst2"]
    with pytest.raises(ValueError, match=r"t1: .* cola .* or a tuning of 'minilm/lora-8/rte'"):
        replace(own, tuned_on=own.tuned_on | {"cola": "rte"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tuning": {}}, r"t1: minilm lora-8 sst2 seed 0 \(report\) has no learning rate; .* 'minilm/lora-8'"),
        ({"tuning": {"minilm/lora-8": ()}}, r"runs by rate \{\}; give every rate the same"),
        ({"tuning": {"minilm/lora-8": tuning("lora-8")[:3]}}, r"\{0.001: 2, 0.01: 1\}; give every rate the same"),
        ({"tuning": {"minilm/lora-8": cells(("lora-8",), learning_rate=0.1)}}, r"scored on 'tune'"),
        ({"tuning": {"minilm/lora-8": tuning("loretta-adp")}}, r"tuning of 'minilm/lora-8': minilm loretta-adp"),
    ],
)
def test_profiles_that_compare_nothing_or_the_wrong_rows_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(profile(t1=cells(("lora-8",))), **change)


# Running


def go(own, results, run_cell=finish, source=None, **settings):
    said = []
    summary = run(own, source, results, run_cell=run_cell, echo=said.append, **settings)
    return summary, said


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_is_run_once_and_never_again(tmp_path, workers):
    results, own = tmp_path / "r.jsonl", profile()
    summary, said = go(own, results, workers=workers)
    assert outcomes(results) == every_outcome(own)
    assert (summary.finished, summary.left, summary.failed) == (18, 0, [])
    assert said[-1].startswith("[18/18] minilm ")
    assert "to go" in said[0]
    before = results.read_bytes()
    summary, said = go(own, results, workers=workers)
    assert (summary.finished, summary.left, said) == (0, 0, [])
    assert results.read_bytes() == before


def test_one_worker_follows_the_profile_and_tunes_a_method_when_it_is_needed(tmp_path):
    own = profile()
    go(own, tmp_path / "r.jsonl")
    lines = read(tmp_path / "r.jsonl")
    studies = resolve(own, lines)
    assert [found.cell for found in lines.values()] == [
        *tuning("lora-8"), *studies["t1"][:4], *tuning("loretta-adp"), *studies["t1"][4:], *studies["t6"][2::3],
    ]  # fmt: skip


def test_a_method_does_not_wait_for_the_tuning_of_another(tmp_path):
    results = tmp_path / "r.jsonl"
    go(profile(t1=cells()), results, fake_cells.wait_for_the_other_method, results, workers=2)
    done = [found.cell for found in read(results).values()]
    slow = done.index(tuning(METHODS[0])[-1])
    assert {cell.method for cell in done[:slow] if cell.scored_on == "report"} == {"loretta-adp"}
    assert len(done) == 16


def test_only_what_is_asked_for_is_run(tmp_path):
    own = profile(t1=cells(("lora-8",)), t6=cells(("loretta-adp",)))
    summary, _ = go(own, tmp_path / "r.jsonl", only=["t6"])
    assert {found.cell.method for found in read(tmp_path / "r.jsonl").values()} == {"loretta-adp"}
    assert (summary.finished, summary.left) == (8, 0)


def test_no_run_is_started_after_the_limit(tmp_path):
    results, own = tmp_path / "r.jsonl", profile(t1=cells(learning_rate=0.1)[:3])
    summary, said = go(own, results, limit_seconds=0)
    assert (summary.finished, summary.left, said) == (0, 3, [])
    for left in (2, 1, 0):
        summary, _ = go(own, results, limit_seconds=0.05)  # what one cell takes
        assert (summary.finished, summary.left) == (1, left)
    assert outcomes(results) == every_outcome(own)


def test_a_run_that_diverges_is_a_result(tmp_path):
    own = profile(t1=cells(("lora-8",), ("diverge", "sst2"), (0,), learning_rate=0.1))
    summary, said = go(own, tmp_path / "r.jsonl", misbehave, tmp_path)
    assert (summary.finished, summary.diverged, summary.left) == (2, 1, 0)
    assert "diverged" in said[0]
    first = next(iter(outcomes(tmp_path / "r.jsonl").values()))
    assert (first["status"], first["loss"]) == ("diverged", None)


FATES = {
    "raise": "LookupError: no such thing",
    "exit": "its process ended with exit code 3",
    "die": "its process was ended by SIGKILL; is there enough memory?",
    "no-pickle": "TypeError: Object of type function is not JSON serializable",
    "no-json": "TypeError: Object of type set is not JSON serializable",
}


def test_cells_that_fail_are_named_and_the_others_go_on(tmp_path):
    between = {fate: f"beside-{fate}" for fate in FATES}
    tasks = [task for fate in FATES for task in (fate, between[fate])]
    own = profile(t1=cells(("lora-8",), tasks, (0,), learning_rate=0.1))
    summary, said = go(own, tmp_path / "r.jsonl", misbehave, tmp_path, workers=2)
    assert sorted(found.cell.tasks[0] for found in read(tmp_path / "r.jsonl").values()) == sorted(between.values())
    assert (summary.finished, summary.left) == (5, 5)
    assert sorted(summary.failed) == sorted(
        (cell.label, FATES[cell.tasks[0]]) for cell in own.studies["t1"] if cell.tasks[0] in FATES
    )
    assert sum("Traceback" in text for text in said) == 3
    assert sum("started again" in text for text in said) == 2
    summary, _ = go(own, tmp_path / "r.jsonl")
    assert (summary.finished, summary.left, summary.failed) == (5, 0, [])


def test_a_fault_that_all_share_is_told_at_length_once(tmp_path):
    own = profile(t1=cells(("lora-8",), ("raise",), (0, 1, 2), learning_rate=0.1))
    summary, said = go(own, tmp_path / "r.jsonl", misbehave, tmp_path)
    assert len(summary.failed) == len(said) == 3
    assert sum("Traceback" in text for text in said) == 1


def test_a_cell_whose_process_is_killed_once_is_tried_again(tmp_path):
    own = profile(t1=cells(("lora-8",), ("die-once", "beside-it"), (0,), learning_rate=0.1))
    summary, said = go(own, tmp_path / "r.jsonl", misbehave, tmp_path, workers=2)
    assert (summary.finished, summary.left, summary.failed) == (2, 0, [])
    assert sum("started again" in text for text in said) == 1


def test_the_cells_of_a_failed_tuning_wait(tmp_path):
    failing = tuple(replace(cell, tasks=("raise",)) for cell in tuning("lora-8", ("sst2",)))
    own = Profile("fake", "", {"t1": cells(("lora-8",))}, {"minilm/lora-8": failing})
    summary, _ = go(own, tmp_path / "r.jsonl", misbehave, tmp_path)
    assert (summary.finished, len(summary.failed), summary.left) == (0, 2, 6)


def test_a_worker_has_one_thread_and_stays(tmp_path):
    own = profile(t1=cells(("lora-8",), ("sst2",), (0, 1), learning_rate=0.1))
    go(own, tmp_path / "r.jsonl", fake_cells.look_around)
    first, second = outcomes(tmp_path / "r.jsonl").values()
    assert not first["loaded_before"]
    assert second["loaded_before"]
    assert first["process"] == second["process"] != os.getpid()
    assert first["threads"] == second["threads"] == 1


def test_a_damaged_file_is_told_before_anything_runs(tmp_path):
    (tmp_path / "r.jsonl").write_text("nonsense\n")
    with pytest.raises(ResultsError, match="line 1"):
        go(profile(), tmp_path / "r.jsonl")


# Whatever ends it


def begin(results, data):
    command = [sys.executable, "-m", "tests.studies.fake_cells", "run", "--profile", "fake", "--workers", "2"]
    return subprocess.Popen(
        [*command, "--data", data, "--results", results],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=100)
    assert not alive


@pytest.mark.slow
def test_killed_at_any_time_and_resumed_it_is_as_if_it_had_not_been(tmp_path):
    results, moments = tmp_path / "r.jsonl", random.Random(0)  # noqa: S311
    kills = 0
    for _ in range(6):
        process = begin(results, tmp_path)
        size = results.stat().st_size if results.exists() else 0
        while (results.stat().st_size if results.exists() else 0) == size and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        children = family(process) if process.poll() is None else []
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
        assert_gone(children)
        with results.open("ab") as file:  # the write may have been cut short as well
            file.write(b'{"key": "0123'[: moments.randrange(14)])
    assert kills >= 3
    process = begin(results, tmp_path)
    process.communicate()
    assert process.returncode == 0
    assert outcomes(results) == every_outcome(profile())
    assert len(results.read_text().splitlines()) == len(read(results))


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    results = tmp_path / "r.jsonl"
    process = begin(results, tmp_path)
    said = [process.stdout.readline() for _ in range(3)]
    children = family(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert all(text.startswith("[") for text in said)
    assert f"To go on: python -m benchmarks.paper run --profile fake --workers 2 --data {tmp_path}" in out
    assert err == ""
    assert_gone(children)
    assert 3 <= len(read(results)) < 18
    process = begin(results, tmp_path)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    assert "0 left" in out
    assert outcomes(results) == every_outcome(profile())


# Time


def test_time_left_is_reckoned_from_what_is_most_alike():
    known, other = cells(("lora-8",), ("sst2", "cola"), (0,), learning_rate=0.1)
    lines = as_lines([line(known, cpu_seconds=10.0), line(other, cpu_seconds=30.0)])

    def left(cell):
        return pace.time_left([cell], lines)

    assert left(replace(known, seed=1)) == pace.TimeLeft(pytest.approx(10), 0)
    assert left(replace(known, seed=1, budget=replace(BUDGET, steps=50))) == pace.TimeLeft(pytest.approx(50), 0)
    assert left(replace(other, method="full")) == pace.TimeLeft(pytest.approx(30), 0)
    assert left(replace(known, tasks=("rte", "mrpc"))) == pace.TimeLeft(pytest.approx(2 * 20), 0)
    assert pace.cpu_seconds(lines.values()) == 40


def test_another_model_says_nothing_of_the_time_left():
    (known,) = cells(("lora-8",), ("sst2",), (0,), learning_rate=0.1)
    lines = as_lines([line(known, cpu_seconds=10.0)])
    other = replace(known, model="smollm2")
    both = pace.time_left([replace(known, seed=1), other], lines)
    assert both == pace.TimeLeft(pytest.approx(10), 1)
    assert both.among(2) == "about 5 s, and 1 run of a model that has not been timed yet"
    assert str(pace.time_left([other], {})) == "1 run of a model that has not been timed yet"
    assert str(pace.time_left([], lines)) == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (42, "42 s"), (600, "10 min"), (3599, "1 h 0 min"), (6000, "1 h 40 min")]
)
def test_times_in_words(seconds, said):
    assert pace.words(seconds) == said
