"""Run the suites, print the tables and write docs/benchmarks.json and docs/benchmarks.md.

    python benchmarks/run.py [--threads N] [--scale full|quick|tiny] [--output FOLDER] [arguments for pytest]

Only a full run writes without being told where.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import platform
import sys
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.page import render  # noqa: E402  # after the path, so that the file runs as a script

SUITES = ROOT / "benchmarks"
PACKAGES = (
    "numpy", "torch", "tensorly", "torchTT", "teneva", "quimb", "tntorch", "tensorly-torch", "loretta", "peft",
    "transformers",
)  # fmt: skip


class Outcome(enum.IntEnum):
    """The exit statuses of pytest that leave something to show."""

    ALL_WELL = 0
    SOME_FAILED = 1


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; the exit status is that of pytest: not zero when a case of ours failed."""
    options, pytest_arguments = _parser().parse_known_args(arguments)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read when numpy and torch are first imported: below, not above
    status, measured = _measure(options.scale, pytest_arguments)
    if status not in {Outcome.ALL_WELL, Outcome.SOME_FAILED}:
        return status  # interrupted, or never begun: what is there stays
    run = {"environment": _environment(), **measured, "planning": None}
    if options.scale == "full" and options.threads == 1 and find_spec("benchmarks.planning"):
        run["planning"] = _planning_table(run["failed"])
    output = options.output or (ROOT / "docs" if options.scale == "full" else None)
    page = _write(output, str(options.threads), run) if output else render({str(options.threads): run})
    print(page)
    return int(bool(run["failed"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", choices=["full", "quick", "tiny"], default="full")
    parser.add_argument("--output", type=Path, help="folder of benchmarks.json and benchmarks.md")
    return parser


def _measure(scale: str, pytest_arguments: list[str]) -> tuple[int, dict[str, Any]]:
    """Run pytest-benchmark; return its exit status, the records and the names of the cases that failed."""
    chosen = [] if scale == "full" else ["-m", "quick"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benchmarks.json"
        settings = ["-c", str(SUITES / "pytest.ini"), f"--scale={scale}"]
        results = [f"--benchmark-json={file}", f"--benchmark-storage=file://{folder}"]
        failures = Failures()
        status = pytest.main([*settings, *results, *chosen, *pytest_arguments, str(SUITES)], plugins=[failures])
        # empty when no case was run
        benchmarks = json.loads(file.read_text())["benchmarks"] if file.exists() and file.stat().st_size else []
    records = [benchmark["extra_info"]["record"] for benchmark in benchmarks if "record" in benchmark["extra_info"]]
    return int(status), {"records": records, "failed": failures.names}


class Failures:
    """A plugin that remembers which cases failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for each phase of each case."""
        if report.failed:
            self.names.append(report.nodeid.rpartition("::")[2])


def _environment() -> dict[str, str]:
    capability = import_module("torch").backends.cpu.get_cpu_capability()
    versions = {package: _version(package) for package in PACKAGES}
    return {"Python": platform.python_version(), "on": f"{platform.machine()} with {capability}", **versions}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _planning_table(failed: list[str]) -> str | None:
    """What the planner predicts beside what it measures; the suites have run by now, so a failure only is told."""
    try:
        return import_module("benchmarks.planning").table()
    except Exception as error:
        failed.append(f"the table of plans ({type(error).__name__}: {error})")
        return None


def _write(folder: Path, threads: str, run: dict[str, Any]) -> str:
    """Put the run beside those of other numbers of threads, write both files whole, and return the page."""
    atomic = import_module("ttlib_peft.atomic")
    file = folder / "benchmarks.json"
    runs = {**(atomic.read_json(file) if file.exists() else {}), threads: run}
    page = render(runs)
    atomic.write_json(file, runs)
    with atomic.replacing(folder / "benchmarks.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return page


if __name__ == "__main__":
    sys.exit(main())
