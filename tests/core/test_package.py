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
import numpy
between = time.perf_counter()
import ttlib
seconds, numpy_seconds = time.perf_counter() - between, between - start
heavy = ["torch", "matplotlib", "transformers", "peft", "scipy", "opt_einsum", "jax", "typer", "rich"]
print(json.dumps({"of_numpy": seconds / numpy_seconds, "loaded": [name for name in heavy if name in sys.modules]}))
"""


def test_importing_ttlib_is_light():
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    assert all(run["loaded"] == [] for run in runs)
    assert min(run["of_numpy"] for run in runs) <= 8  # 3 times what numpy itself takes, on a quiet machine


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


def public_callables():
    """Every public function of ttlib and every public method of its public classes, by its full name."""
    modules = [ttlib, ttlib.noise_reduction, ttlib.interop, ttlib.testing]
    for module in modules:
        for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value) and value.__module__.startswith("ttlib"):
                for key, member in inspect.getmembers(value):
                    function = member.fget if isinstance(member, property) else member
                    if not key.startswith("_") and inspect.isroutine(function):
                        yield f"{module.__name__}.{name}.{key}", function


@pytest.mark.parametrize(("name", "function"), sorted(public_callables(), key=lambda pair: pair[0]))
def test_public_callables_are_documented_and_annotated(name, function):
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not getattr(function, "__module__", "").startswith("ttlib"):
        return  # with_traceback and the like, inherited from Python
    assert inspect.getdoc(function), name
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters), name
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty, name


FUNCTIONS = [(name, f) for name, f in public_callables() if name.count(".") == 1]


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_public_functions_show_an_example(name, function):
    assert ">>>" in inspect.getdoc(function), name


def test_options_are_keyword_only_and_data_is_positional_only():
    for name, function in FUNCTIONS:
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
        allowed = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
        assert kinds <= allowed, name
