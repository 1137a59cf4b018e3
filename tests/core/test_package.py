"""The package as a whole: what importing it costs, and that its public names are documented ones."""

import inspect
import json
import subprocess
import sys

import pytest

import ttlib
import ttlib_peft

PROBE = """
import json, sys, time
start = time.perf_counter()
import ttlib
seconds = time.perf_counter() - start
heavy = ["torch", "matplotlib", "transformers", "peft", "scipy", "opt_einsum", "jax", "typer", "rich"]
print(json.dumps({"seconds": seconds, "loaded": [name for name in heavy if name in sys.modules]}))
"""


def test_importing_ttlib_is_light():
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert all(run["loaded"] == [] for run in runs)
    assert min(run["seconds"] for run in runs) <= 0.25


@pytest.mark.parametrize("package", [ttlib, ttlib_peft])
def test_public_names_exist_and_are_documented(package):
    assert sorted(package.__all__) == list(package.__all__)
    public = {name for name, value in vars(package).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public - {"annotations", "register_all"} <= set(package.__all__)
    for name in package.__all__:
        assert inspect.getdoc(getattr(package, name)), name


def test_errors_are_also_the_builtins_one_expects():
    for error in (ttlib.ShapeError, ttlib.RankError, ttlib.NonFiniteError, ttlib.TTFileError):
        assert issubclass(error, ttlib.TTError)
        assert issubclass(error, ValueError)
    assert issubclass(ttlib.BackendError, TypeError)
