"""The study's command line: bad input, what it prints, and how it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paper.__main__ import main
from benchmarks.paper.results import Line, append
from tests.studies.fake_cells import outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: command"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "required: --data"),
        (["run", "--data", "{tmp}/none"], "{tmp}/none"),
        (["run", "--data", "{tmp}", "--profile", "large"], "invalid choice: 'large'"),
        (["run", "--data", "{tmp}", "--workers", "0"], "--workers: 0 is less than 1"),
        (["run", "--data", "{tmp}", "--workers", "two"], "--workers"),
        (["run", "--data", "{tmp}", "--limit-minutes", "-1"], "--limit-minutes: -1 is not a time"),
        (["run", "--data", "{tmp}", "--limit-minutes", "nan"], "--limit-minutes: nan is not a time"),
        (["run", "--data", "{tmp}", "--only", "t1,t0", "--results", "{tmp}/r.jsonl"], "has no study t0; it has t1"),
        (["run", "--data", "{tmp}", "--results", "{tmp}/damaged.jsonl"], "damaged.jsonl, line 1 is not a result"),
        (["list", "--results", "{tmp}/damaged.jsonl"], "damaged.jsonl, line 1 is not a result"),
        (["dry-run", "--data", "{tmp}", "--profile", "small"], "'small' has no dry run"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, capsys, arguments, says):
    (tmp_path / "damaged.jsonl").write_text("nonsense\n")
    with pytest.raises(SystemExit) as ended:
        main([text.replace("{tmp}", str(tmp_path)) for text in arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("python -m benchmarks.paper")
    assert says.replace("{tmp}", str(tmp_path)) in said


def test_the_list_counts_what_is_done(tmp_path, capsys):
    from benchmarks.paper.profiles.small import PROFILE

    (first, *_), *_ = PROFILE.tuning.values()
    append(tmp_path / "r.jsonl", Line(first, outcome(first) | {"cpu_seconds": 90.0}, "abc", {}))
    assert main(["list", "--results", str(tmp_path / "r.jsonl")]) == 0
    rows = {row.split()[0]: row.split()[1:] for row in capsys.readouterr().out.splitlines() if row.strip()}
    total = sum(len(own) for own in PROFILE.tuning.values())
    assert rows["tuning"] == [str(total), "1", str(total - 1), "2", "min"]
    for name, own in PROFILE.studies.items():
        assert rows[name] == [str(len(set(own))), "0", str(len(set(own)))]


def test_failures_are_listed_and_give_exit_code_1(tmp_path):
    program = (
        "import sys; from functools import partial; from tests.studies import fake_cells as fakes;"
        "from benchmarks.paper import __main__ as command_line, profiles; from benchmarks.paper.runner import run;"
        "from benchmarks.paper.profiles import small;"
        "small.PROFILE = fakes.profile(t1=fakes.cells(('lora-8',), ('raise', 'sst2'), (0,), learning_rate=0.1));"
        "command_line.run = partial(run, run_cell=fakes.misbehave); command_line._source = lambda chosen: chosen.data; sys.exit(command_line.main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "run", "--data", tmp_path, "--results", tmp_path / "r.jsonl"],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "1 runs made, 0 of them diverged; 1 left.\nFailed, and tried again next time:\n" in ended.stdout
    assert ended.stdout.endswith("  minilm lora-8 raise seed 0 lr 0.1 (report): LookupError: no such thing\n")
    assert ended.stderr == ""


def test_the_command_line_does_not_load_torch():
    program = "import sys, benchmarks.paper.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0
