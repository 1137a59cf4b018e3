"""The command line of the study: `python -m benchmarks.paper run --profile small --data FOLDER`."""

from __future__ import annotations

import argparse
import pkgutil
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from benchmarks.paper import profiles
from benchmarks.paper.pace import cpu_seconds, time_left, words
from benchmarks.paper.profile import Profile, UnknownStudyError, agenda, resolve
from benchmarks.paper.results import Line, ResultsError, read
from benchmarks.paper.runner import Summary, run
from benchmarks.paper.tasks import Source

_PAPER = Path(__file__).resolve().parent
_RESULTS = _PAPER / "results"
_DOCS = _PAPER.parents[1] / "docs"
_PROFILES = sorted(module.name for module in pkgutil.iter_modules(profiles.__path__))
_INTERRUPTED = 130  # what shells say of Ctrl-C


class BadInputError(ValueError):
    """What was asked for is not there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 where something failed, 2 for bad input, 130 after Ctrl-C."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        return chosen.command(chosen)
    except (BadInputError, ResultsError, UnknownStudyError) as error:
        parser.error(str(error))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m benchmarks.paper", description="The tables and figures of the paper, made again.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[Namespace], int], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(command=command)
        return added

    running = add("run", _run, "make the runs that have no result yet")
    listing = add("list", _list, "say what is done and what is to be done")
    report = add("report", _report, "write the page from the results")
    dry = add("dry-run", _dry_run, "build every model without weights, and the first rows of every task")
    cost = add("cost", _cost, "measure time, memory, operations and bytes of a training step")
    for command in (running, listing, report, dry):
        default = "paper" if command is dry else "small"
        command.add_argument("--profile", choices=_PROFILES, default=default, help=f"default: {default}")
    for command in (running, listing, report):
        command.add_argument(
            "--results", type=Path, metavar="FILE", help="default: benchmarks/paper/results/PROFILE.jsonl"
        )
    for command in (running, dry):
        command.add_argument("--data", required=True, metavar="FOLDER|FILE.json|hub", help="where the rows come from")
    running.add_argument("--workers", type=_count, default=2, metavar="N", help="processes of one thread (default: 2)")
    running.add_argument("--only", type=_names, metavar="STUDY,…", help="these studies, and the tuning they need")
    running.add_argument("--limit-minutes", type=_minutes, metavar="N", help="start no run after this time")
    report.add_argument("--page", type=Path, metavar="FILE", help="default: docs/evidence[-PROFILE].md")
    cost.add_argument("--to", type=Path, default=_RESULTS / "costs.json", metavar="FILE", help="default: %(default)s")
    cost.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    return parser


def _run(chosen: Namespace) -> int:
    profile, source = _profile(chosen), _source(chosen)
    summary = run(
        profile,
        source,
        _results(chosen),
        workers=chosen.workers,
        only=chosen.only,
        limit_seconds=None if chosen.limit_minutes is None else 60 * chosen.limit_minutes,
        echo=lambda line: print(line, flush=True),
    )
    print(_told(summary))
    if summary.interrupted:
        print(f"To go on: {shlex.join(['python', '-m', 'benchmarks.paper', *sys.argv[1:]])}")
        return _INTERRUPTED
    return 1 if summary.failed else 0


def _list(chosen: Namespace) -> int:
    profile, lines = _profile(chosen), read(_results(chosen))
    tables = {"tuning": tuple(cell for cells in profile.tuning.values() for cell in cells), **resolve(profile, lines)}
    whole = agenda(profile, lines)
    print(f"{profile.name}: {profile.description}\n\n{'study':12}{'cells':>7}{'done':>7}{'to do':>7}{'CPU time':>14}")
    for name, cells in tables.items():
        _print_row(name, {cell.key for cell in cells}, lines)
    _print_row("each once", {cell.key for cell in (*whole.done, *whole.ready, *whole.waiting)}, lines)
    left = str(time_left([*whole.ready, *whole.waiting], lines))
    print(f"\nLeft: {left} of CPU time." if left else "")
    return 0


def _report(chosen: Namespace) -> int:
    from benchmarks.paper.report import page

    profile, results = _profile(chosen), _results(chosen)
    name = "evidence" if profile.name == "small" else f"evidence-{profile.name}"
    target = chosen.page or _DOCS / f"{name}.md"
    page.write(profile, results, target)
    print(f"wrote {target}")
    return 0


def _dry_run(chosen: Namespace) -> int:
    dry_run = getattr(_module(chosen), "dry_run", None)
    if dry_run is None:
        msg = f"profile {chosen.profile!r} has no dry run; its runs are short, make them"
        raise BadInputError(msg)
    return 1 if dry_run(_source(chosen), print) else 0


def _cost(chosen: Namespace) -> int:
    from benchmarks.paper import cost

    cost.write(chosen.to, quick=chosen.quick)
    return 0


def _module(chosen: Namespace) -> ModuleType:
    return import_module(f"{profiles.__name__}.{chosen.profile}")


def _profile(chosen: Namespace) -> Profile:
    return _module(chosen).PROFILE


def _source(chosen: Namespace) -> Source:
    from benchmarks.paper.sources import source_from

    try:
        return source_from(chosen.data)
    except (ValueError, OSError) as error:
        raise BadInputError(error) from error


def _results(chosen: Namespace) -> Path:
    return chosen.results or _RESULTS / f"{chosen.profile}.jsonl"


def _print_row(name: str, keys: set[str], lines: Mapping[str, Line]) -> None:
    done = [lines[key] for key in keys & lines.keys()]
    spent = words(cpu_seconds(done)) if done else ""
    print(f"{name:12}{len(keys):7}{len(done):7}{len(keys) - len(done):7}{spent:>14}")


def _told(summary: Summary) -> str:
    said = [f"{summary.finished} runs made, {summary.diverged} of them diverged; {summary.left} left."]
    if summary.failed:
        said += ["Failed, and tried again next time:", *(f"  {what}: {why}" for what, why in summary.failed)]
    return "\n".join(said)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        msg = f"{text} is less than 1"
        raise argparse.ArgumentTypeError(msg)
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not value >= 0:
        msg = f"{text} is not a time"
        raise argparse.ArgumentTypeError(msg)
    return value


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
