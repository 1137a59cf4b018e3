"""The paper's settings give the paper's counts, from real model classes on the meta device."""

import re

import pytest

from ttlib.errors import ShapeError
from ttlib_peft.counting import count_adapter
from ttlib_peft.presets import PAPER, paper, recipe

EXACT = {
    ("deberta-base", "adp"): 99_034,
    ("deberta-base", "rep"): 54_068,
    ("roberta-base", "adp"): 101_914,
    ("roberta-base", "rep"): 67_928,
    ("llama-2-7b", "adp"): 876_800,
    ("llama-2-7b", "rep"): 507_904,
    ("llama-2-13b", "adp"): 1_676_160,
    ("llama-2-13b", "rep"): 769_280,
    ("llama-2-70b", "adp"): 4_728_832,
    ("llama-2-70b", "rep"): 1_987_072,
}


def total(model, method, **options):
    return count_adapter(model, paper(model, method, **options)).trained["total"]


@pytest.mark.parametrize(("model", "method"), PAPER)
def test_every_row_is_exact_and_its_note_says_so(model, method):
    assert total(model, method) == EXACT[model, method]
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", PAPER[model, method].note)]
    assert numbers[0] == EXACT[model, method]


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("adp", {"rank": 2}, 67_762),  # Table 6
        ("adp", {"rank": 10}, 206_194),
        ("adp", {"rank": 20}, 626_914),
        ("rep", {"rank": 2}, 42_056),
        ("rep", {"rank": 10}, 94_568),
        ("rep", {"rank": 20}, 252_368),
        ("adp", {"shape": [64, 12, 64]}, 106_714),  # Table 7
        ("adp", {"shape": [4, 4, 4, 12, 4, 4, 4]}, 97_114),
        ("adp", {"head": "dense"}, 687_938),  # Table 11
        ("adp", {"head": "dense", "train_norms": False}, 649_538),
        ("adp", {"head": "frozen"}, 95_808),
        ("rep", {"head": "dense"}, 644_510),
        ("rep", {"head": "dense", "train_norms": False}, 606_110),
        ("rep", {"train_norms": False}, 15_668),
        ("rep", {"head": "frozen", "train_norms": False}, 13_980),
    ],
)
def test_the_ablations_are_options(method, options, expected):
    assert total("deberta-base", method, **options) == expected


def test_the_scale_of_rep_is_the_codes_and_other_fields_pass_through():
    config = paper("llama-2-7b", "rep", seed=3, init_weights="gaussian")
    assert (config.alpha / config.r, config.seed, config.init_weights) == (2.0, 3, "gaussian")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("gpt2", "adp"), {}, ValueError, "no setting for 'gpt2' and 'adp'; it has deberta-base"),
        (("llama-2-7b", "lora"), {}, ValueError, "no setting for 'llama-2-7b' and 'lora'"),
        (("llama-2-7b", "adp"), {"head": "dense"}, ValueError, "is for classifiers"),
        (("deberta-base", "adp"), {"head": "none"}, ValueError, "head must be one of"),
        (("deberta-base", "adp"), {"rank": 0}, ShapeError, "rank"),
        (("deberta-base", "adp"), {"shape": [8, 8]}, ShapeError, "holds 64 entries"),
    ],
)
def test_what_the_paper_does_not_have_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        paper(*arguments, **options)


def test_recipes():
    assert (recipe("cola").learning_rate, recipe("cola").epochs, recipe("cola").batch_size) == (5e-4, 40, 32)
    assert recipe("drop").schedule == "linear"
    with pytest.raises(ValueError, match="no recipe for task 'imdb'; it has them for mnli"):
        recipe("imdb")
