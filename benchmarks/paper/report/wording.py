"""Names as a reader knows them: methods with their settings, tasks with their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.paper.cells import Value
from benchmarks.paper.methods import METHODS
from benchmarks.paper.models import MODELS
from benchmarks.paper.report.aggregate import Variant
from benchmarks.paper.tasks import TASKS

_SETTINGS = {
    "tensor_rank": "rank", "tensor_shape": "shape", "init_weights": "start", "train_norms": "norms",
    "num_virtual_tokens": "virtual tokens",
}  # fmt: skip
_TASKS = {
    "sst2": "SST-2", "cola": "CoLA", "stsb": "STS-B", "boolq": "BoolQ", "record": "ReCoRD", "squad": "SQuAD",
}  # fmt: skip
_METRICS = {"f1": "F1", "matthews": "Matthews", "spearman": "Spearman", "token_f1": "F1 of tokens"}
_DEFAULTS = {"head": "dense", "init_weights": "residual"}  # of methods that are not told otherwise


def title(method: str) -> str:
    """A method as the tables print it; its name where there is no such method (any more)."""
    return METHODS[method].title if method in METHODS else method


def described(variant: Variant) -> str:
    """A method with the settings that differ from its default."""
    return ", ".join([title(variant.method), *(setting(name, value) for name, value in variant.options)])


def effective(variant: Variant, name: str) -> Value:
    """The value of an option, or what the method takes where it is not given."""
    method = METHODS.get(variant.method)
    defaults: Mapping[str, Value] = {**_DEFAULTS, **({"train_norms": method.norms, **method.options} if method else {})}
    return variant.setting(name, defaults.get(name))


def setting(name: str, value: Value) -> str:
    """One option of a method in words."""
    return f"{setting_name(name)} {setting_value(value)}"


def setting_name(name: str) -> str:
    """The name of an option in words."""
    return _SETTINGS.get(name, name.replace("_", " "))


def setting_value(value: Value) -> str:
    """The value of an option in words."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "automatic"
        case tuple() if value and all(isinstance(own, tuple) and isinstance(own[0], str) for own in value):
            return ", ".join(f"{name} as {setting_value(own)}" for name, own in value)
        case tuple():
            return f"[{', '.join(setting_value(own) for own in value)}]"
        case _:
            return str(value)


def task(name: str) -> str:
    """A task as the paper writes it."""
    return _TASKS.get(name, name.upper())


def model(name: str) -> str:
    """A model as its authors write it."""
    return MODELS[name].title if name in MODELS else name


def column(tasks: tuple[str, ...]) -> str:
    """A task, or a sequence, with the metric that it is scored by."""
    return " > ".join(f"{task(name)} ({_METRICS.get(TASKS[name].metric, TASKS[name].metric)})" for name in tasks)


def listed(items: Iterable[str], nothing: str = "none") -> str:
    """Several things in a sentence: "a, b and c"."""
    own = list(items)
    if not own:
        return nothing
    return own[0] if len(own) == 1 else f"{', '.join(own[:-1])} and {own[-1]}"
