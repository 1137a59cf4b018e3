"""Run PEFT's tests with our rows: python -m tests.upstream [FILE ...] [pytest options]."""

import os
import subprocess
import sys
from pathlib import Path

from tests.upstream import release, stand_ins
from tests.upstream.rows import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Fetch the tests, build the models, run; return pytest's exit status."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttlib-upstream"
    cache.mkdir(parents=True, exist_ok=True)
    suite = release.unpack_tests(cache)
    stand_ins.build(cache / "hub")
    files = [name for name in arguments if name in TABLES] or list(TABLES)
    options = [argument for argument in arguments if argument not in TABLES]
    path = [str(REPOSITORY), str(suite), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache / "hub"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--rootdir",
        ".",
        "-p",
        "tests.upstream.plugin",
        "-p",
        "no:cacheprovider",
    ]
    targets = [f"peft_tests/{file}.py" for file in files]
    return subprocess.run(
        [*command, "-q", "--disable-warnings", *targets, *options], cwd=suite, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
