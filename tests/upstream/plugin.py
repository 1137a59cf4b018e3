"""A pytest plugin that gives PEFT's tests our rows in the place of theirs."""

import importlib
import importlib.util
import inspect
import sys
import types
from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.upstream.rows import BY_TEST, TABLES
from ttlib_peft import LorettaAdpConfig

# Tests that name the methods which have a feature, where ours have it too: there our class stands for LoraConfig.
_LORA_ALONE = {"test_mixed_adapter_batches", "test_generate_with_mixed_adapter_batches"}

# Trained with a rate of 0.5 on an unbounded loss, products of more than two cores end in NaN, as LoRA's do that starts
# from a B that is not zero.  PEFT gives such methods lower rates there by their class; AdaLoRA's is taken.
_LOWER_RATE = "test_parameters_after_loading_model"

# What PEFT says of Lily and ShadowPEFT.
_NO_MERGE = "LoRETTA_adp does not support merging adapters, skipping this test."

_left_out: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    _stand_in_for_unused_imports()
    utils = importlib.import_module("peft_tests.testing_utils")
    utils.hub_online_once = lambda _: nullcontext()  # HF_HUB_OFFLINE holds all along
    common = importlib.import_module("peft_tests.testing_common")
    skip_for_peft = common._skip_if_merging_not_supported

    def skip_if_merging_not_supported(model_id: str, config_cls: type, config_kwargs: dict[str, Any]) -> None:
        if issubclass(config_cls, LorettaAdpConfig):
            pytest.skip(_NO_MERGE)
        skip_for_peft(model_id, config_cls, config_kwargs)

    common._skip_if_merging_not_supported = skip_if_merging_not_supported
    common._skip_if_conv1d_not_supported = lambda *_: None  # both methods take Conv1D


def _stand_in_for_unused_imports() -> None:
    """Diffusers is imported at the top of PEFT's tests for models that none of our rows use."""
    if importlib.util.find_spec("diffusers") is None:
        absent = types.ModuleType("diffusers")
        absent.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
        sys.modules["diffusers"] = absent


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> list[Any] | None:
    """Put our rows into the decorators of a test; leave out a test without a table of ours."""
    if not (inspect.isfunction(obj) and name.startswith("test_")):
        return None
    module = sys.modules[obj.__module__]
    marks = list(getattr(obj, "pytestmark", ()))
    own = [_with_our_rows(module, name, mark) for mark in marks]
    if own == marks:
        _left_out[module.__name__.rpartition(".")[2]] += 1
        return []
    obj.pytestmark = own  # type: ignore[attr-defined]
    return None


def _with_our_rows(module: types.ModuleType, test: str, mark: pytest.Mark) -> pytest.Mark:
    if mark.name != "parametrize":
        return mark
    names, rows = mark.args[:2]
    for table, ours in TABLES[module.__name__.rpartition(".")[2]].items():
        if rows is getattr(module, table) and test not in BY_TEST:
            return pytest.mark.parametrize(names, ours, **mark.kwargs).mark
    if test in BY_TEST and any(word in names for word in ("config", "peft_config")):
        return pytest.mark.parametrize(names, BY_TEST[test]).mark
    return mark


@pytest.fixture(autouse=True)
def _settings_by_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do for our classes what PEFT's tests do for theirs by comparing the class, and draw the same numbers each time."""
    torch.manual_seed(0)
    test, parameters = request.node.originalname, request.node.callspec.params
    reason = _not_here(test, parameters)
    if reason:
        pytest.skip(reason)
    # written for BeFT alone, but its condition is always met
    monkeypatch.setattr(request.module, "check_beft_config", lambda *_: None, raising=False)
    stands_for = "LoraConfig" if test in _LORA_ALONE else "AdaLoraConfig" if test == _LOWER_RATE else None
    if stands_for:
        for module in (request.module, sys.modules["peft_tests.testing_common"]):
            monkeypatch.setattr(module, stands_for, parameters["config_cls"])


def _not_here(test: str, parameters: dict[str, Any]) -> str | None:
    """Why a row cannot be run, or None."""
    config, settings = parameters.get("config_cls"), parameters.get("config_kwargs", {})
    if test == "test_from_pretrained_cache_dir":
        return "downloads into an empty cache: needs the hub"
    if test == "test_active_adapter" and settings.get("train_norms"):
        return "Multiple active adapters with modules_to_save is not supported (train_norms saves norms so)."
    if test == "test_merge_unmerge_unload" and config is LorettaAdpConfig:
        return _NO_MERGE
    if test in _LORA_ALONE and config is LorettaAdpConfig and "OPT" in parameters["model_id"]:
        return "OPT flattens batch and tokens before fc2: mixed batches there are refused, as LoRA's on fc2 are."
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    terminalreporter.section("rows of ttlib_peft")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5} skipped: {reason}")
    for file, count in sorted(_left_out.items()):
        terminalreporter.line(f"{count:5} tests of {file} have no table of methods: not applicable")
