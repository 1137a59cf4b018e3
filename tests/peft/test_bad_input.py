"""What bad settings, patterns and names get: refused where they are written, with the value and a remedy."""

import re
import string
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from tests.peft.tiny import bert
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig
from ttlib_peft.config import LARGEST_SIZE, size
from ttlib_peft.loading import check_adapter_name
from ttlib_peft.patterns import check_pattern

ORDINARY = [
    "all-linear",
    "query",
    r".*\.(q_proj|v_proj)",
    r"(.*\.)?layer\.\d+\.attention.*",
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r"^(?!.*(lm_head|embed)).*proj$",
    r"model\.layers\.(0|1|2|10|11)\.self_attn\.(q|k|v|o)_proj",
    r"(?:[^.]+\.)*dense",
    r"layer\.[0-9]+\.(attention|output)\.(self|dense)",
    r"(ab|cd)+x",
    r"[^.]+\.[^.]+\.[^.]+\.[^.]+\.[^.]+\.query",
]
RUNAWAY = [
    r"(a+)+$",
    r"(a|aa)+$",
    r"(a*)*b",
    r"(.*\.)*x",
    r"(.*a){12}",
    r"(a?){30}a{30}",
    r"(\w+\s?)*$",
    r"((a|b)+c?)+d",
    r"((ab)*)*",
    r"(a|a?)+$",
    r".*a.*a.*a.*a.*a",
    r"(.+)\1",
    r"(?=(a+)+$).*",
    "a?" * 30 + "a" * 30,
]


@pytest.mark.parametrize("pattern", ORDINARY)
def test_ordinary_patterns_are_taken_as_they_are(pattern):
    assert check_pattern(pattern, "target_modules") == pattern
    assert LorettaRepConfig(target_modules=pattern).target_modules == pattern


@pytest.mark.parametrize("pattern", RUNAWAY)
def test_patterns_that_can_run_away_are_refused(pattern):
    with pytest.raises(ValueError, match="could take for ever to match, because of"):
        check_pattern(pattern, "target_modules")


@pytest.mark.parametrize("pattern", ["(", "[a", "a{2,1}", "*a", "(" * 3000 + ")" * 3000, "a{99999999999999999999}"])
def test_patterns_that_do_not_compile_are_refused(pattern):
    with pytest.raises(ValueError, match="exclude_modules .* is not a regular expression"):
        LorettaRepConfig(exclude_modules=pattern)


def test_a_pattern_may_not_be_endless():
    with pytest.raises(ValueError, match="has 10001 characters, at most 10000"):
        check_pattern("a" * 10_001, "target_modules")


@given(st.lists(st.sampled_from(["a", ".", "b", "*", "+", "?", "(", ")", "|", "[ab]", r"\.", ".*"]), max_size=12))
def test_what_is_accepted_is_matched_fast(parts):
    """The oracle is the machine: processor time of a full match on names made to fail late."""
    pattern = "".join(parts)
    try:
        check_pattern(pattern, "x")
    except ValueError:
        return
    started = time.process_time()
    for name in ("a" * 40 + "!", "ab" * 20 + "!", "a." * 20 + "!"):
        re.fullmatch(pattern, name)
    assert time.process_time() - started < 5  # seconds; what is refused takes hours


@pytest.mark.parametrize("setting", ["tensor_rank_pattern", "rank_pattern", "alpha_pattern"])
def test_keys_of_patterns_are_patterns(setting):
    with pytest.raises(ValueError, match=f"a key of {setting} .* could take for ever"):
        LorettaRepConfig(**{setting: {"(a+)+": 4}})
    with pytest.raises(TypeError, match=f"{setting} must be a mapping"):
        LorettaRepConfig(**{setting: [4]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": 3}, "target_modules must be a list of names, got 3"),
        ({"target_modules": ["query", 3]}, "target_modules must hold names of modules, got 3 in it"),
        ({"exclude_modules": [""]}, "exclude_modules must hold names of modules, got ''"),
        ({"modules_to_save": "classifier"}, r"got the string 'classifier': write \['classifier'\]"),
        ({"tensorize_modules": "pooler"}, "tensorize_modules must be a list of names"),
        ({"layers_to_transform": [0, -1], "target_modules": ["query"]}, "layers_to_transform must be an integer >= 0"),
        ({"layers_to_transform": True, "target_modules": ["query"]}, "got True"),
        ({"layers_to_transform": 0, "layers_pattern": "(a+)+", "target_modules": ["q"]}, "could take for ever"),
        ({"modules_to_save": ["(a+)+"]}, "could take for ever"),
        ({"train_norms": "yes"}, "train_norms must be True or False, got 'yes'"),
        ({"inference_mode": 1}, "inference_mode must be True or False, got 1"),
        ({"tensor_rank": 10**9}, "tensor_rank must be at most 65536, got 1000000000"),
        ({"tensor_rank": [2, 10**6000]}, "got an integer of 19932 bits"),
        ({"tensor_shape": [2**25, 2]}, "mode of tensor_shape must be at most 16777216"),
    ],
)
@pytest.mark.parametrize("config_class", [LorettaRepConfig, LorettaAdpConfig])
def test_bad_settings_are_refused(config_class, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        config_class(**settings)


@pytest.mark.parametrize("value", ["8", -1, 0, True, 10**9, 10**30, 1.5, None, float("nan")])
def test_sizes_are_integers_within_reason(value):
    with pytest.raises(ValueError, match="r must be"):
        size(value, "r")
    assert size(LARGEST_SIZE, "r") == LARGEST_SIZE


@pytest.mark.parametrize(
    "name", [" ", ".", "..", "../x", "/abs", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "x" * 101, "v1.0"]
)
def test_names_that_lead_out_of_a_folder_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="cannot name an adapter"):
        check_adapter_name(name)
    model = get_peft_model(bert(), LorettaRepConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="cannot name an adapter"):
        model.add_adapter(name, LorettaRepConfig(target_modules=["query"]))
    assert list(model.peft_config) == ["default"]
    model.save_pretrained(tmp_path / "inside")
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


@given(st.text(string.ascii_letters + string.digits + "-_ ", min_size=1, max_size=100).filter(str.strip))
def test_ordinary_names_are_taken(name):
    assert check_adapter_name(name) == name


def test_a_name_is_a_string_that_is_not_empty():
    with pytest.raises(ValueError, match="'' cannot name an adapter"):
        check_adapter_name("")
    with pytest.raises(TypeError, match="must be a string, got 3"):
        check_adapter_name(3)


def test_a_target_that_matches_nothing_is_told_what_there_is():
    with pytest.raises(ValueError, match="not found in the base model") as refusal:
        get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LorettaRepConfig(target_modules=["q_proj"]))
    assert refusal.value.__notes__ == ["Linear modules of this Sequential end in: 0"]
