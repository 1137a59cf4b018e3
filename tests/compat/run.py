"""tests/peft on other releases of PEFT and transformers, each laid beside the environment and never into it.

    python tests/compat/run.py [--peft 0.19.1,0.20.0] [--transformers 4.57.6] [-- pytest arguments]

For each pair pip is asked what it would have to install; that goes into folders of its own under .venv/compat, which
stand before the environment's packages on the path.  Pairs that transformers itself refuses are left out.  Prints a
table and fails if a test does that is not in LIMITS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
FOLDERS = ROOT / ".venv" / "compat"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
PEFT = ("0.19.1", "0.20.0", "0.21.0", "0.21.2")
TRANSFORMERS = ("4.51.3", "4.57.6", "5.0.0", "5.1.0", "5.8.1", "5.23.0")
# What the two must fit; torch and numpy are never replaced.
BESIDE = ("datasets", "accelerate")
KEPT = ("torch", "numpy")


class Limit(NamedTuple):
    """A test that cannot pass on some releases, and why."""

    test: str
    reason: str
    peft: SpecifierSet = SpecifierSet()
    transformers: SpecifierSet = SpecifierSet()


_CHECKS = "PEFT has no hook through which files are checked"

LIMITS = (
    Limit("test_a_changed_file_is_refused", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_a_changed_configuration_is_refused", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_an_untouched_folder_loads_bit_by_bit", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_damage_never_loads_silently", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_state_dicts_set_by_hand_are_checked", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_a_file_that_lost_starts_is_refused", _CHECKS, peft=SpecifierSet("<0.21")),
    Limit("test_a_target_that_matches_nothing_is_told", "PEFT raises a plain ValueError", peft=SpecifierSet("<0.21")),
    Limit(
        "test_trained_biases_are_saved",
        "PEFT saves the biases of LoRA alone; training them is refused",
        peft=SpecifierSet("<0.21"),
    ),
    Limit(
        "test_an_adapter_loads_beside_another_under_its_own_name",
        "PEFT writes all adapters of a model into each file, of every method but LoRA; it loads as it should",
        peft=SpecifierSet("<0.20"),
    ),
    Limit(
        "test_transformers_own_adapter_methods",
        "model.load_adapter loads no adapter at all, LoRA included, and does not say so",
        transformers=SpecifierSet(">=5.0,<5.6"),
    ),
    Limit(
        "test_compiles_as_one_graph",
        "PEFT's forward asks transformers for a setting that it logs as deprecated: a graph break, LoRA's too",
        peft=SpecifierSet("<0.21"),
        transformers=SpecifierSet(">=5.8"),
    ),
)
# transformers refuses an older PEFT than this in add_adapter and its kin; pip is not told.
PEFT_ASKED_BY_TRANSFORMERS = ((SpecifierSet(">=5.23"), SpecifierSet(">=0.20")),)


def fits(peft: str, transformers: str) -> bool:
    """Tell whether transformers takes this PEFT."""
    return all(peft in asked for releases, asked in PEFT_ASKED_BY_TRANSFORMERS if transformers in releases)


def install(peft: str, transformers: str) -> list[Path]:
    """Return the folders that hold this pair and what it needs; raise RuntimeError if pip finds none."""
    wanted = [f"peft=={peft}", f"transformers=={transformers}", *BESIDE, *(f"{name}=={version(name)}" for name in KEPT)]
    packages = [item["metadata"] for item in json.loads(pip_install("--dry-run", "--report", "-", *wanted))["install"]]
    folders = []
    for package in packages:
        name = f"{package['name']}=={package['version']}"
        folder = FOLDERS / name
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            pip_install("--no-deps", "--upgrade", "--target", str(unfinished), name)
            unfinished.rename(folder)
        folders.append(folder)
    return folders


def pip_install(*arguments: str) -> str:
    """Return what pip prints; raise RuntimeError with what it complains of."""
    ran = subprocess.run([*PIP, "install", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        msg = f"pip install {' '.join(arguments)} failed:\n{ran.stderr}"
        raise RuntimeError(msg)
    return ran.stdout


def run_tests(folders: list[Path], arguments: list[str]) -> tuple[int, list[str]]:
    """Return how many tests passed and the names of those that failed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    environment.setdefault("OMP_NUM_THREADS", "1")
    # Other releases warn of other things, which is not what is asked here.
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", "-W", "default"]
    ran = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    passed = re.search(r"(\d+) passed", ran.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", ran.stdout, re.MULTILINE)
    if ran.returncode > 1 or passed is None:  # neither passed nor failed: interrupted, or nothing was collected
        sys.stdout.write(ran.stdout[-4000:])
        failed.append(f"pytest ended with code {ran.returncode}")
    return int(passed[1]) if passed else 0, failed


def limit_of(test: str, peft: str, transformers: str) -> Limit | None:
    """Return why this test cannot pass on these releases, if that is known."""
    return next(
        (
            limit
            for limit in LIMITS
            if f"::{limit.test}" in test and peft in limit.peft and transformers in limit.transformers
        ),
        None,
    )


def main() -> int:
    """Run the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peft", type=lambda text: text.split(","), default=PEFT)
    parser.add_argument("--transformers", type=lambda text: text.split(","), default=TRANSFORMERS)
    parser.add_argument("arguments", nargs="*", default=["tests/peft", "-m", "not slow"])
    options = parser.parse_args()
    rows, unexpected, met = [], [], set()
    for peft in options.peft:
        for transformers in (release for release in options.transformers if fits(peft, release)):
            passed, failed = run_tests(install(peft, transformers), options.arguments)
            limits = {test: limit_of(test, peft, transformers) for test in failed}
            unknown = [test for test, limit in limits.items() if limit is None]
            met |= {limit for limit in limits.values() if limit is not None}
            unexpected += [f"{peft} with {transformers}: {test}" for test in unknown]
            rows.append(f"| {peft} | {transformers} | {passed} | {len(failed) - len(unknown)} | {len(unknown)} |")
            sys.stdout.write(rows[-1] + "\n")
            sys.stdout.flush()
    head = ["| peft | transformers | passed | known limits | failed |", "|---|---|---|---|---|"]
    reasons = [f"- {limit.test}: {limit.reason}" for limit in LIMITS if limit in met]
    sys.stdout.write("\n".join(["", *head, *rows, "", *reasons, "", *unexpected]) + "\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
