"""What the released reference library trains, counted on real model classes with shapes that split between rows and columns.

Some of its shapes cut inside a mode; where one of ours has as many numbers and does not, it stands here instead.
"""

import pytest

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig
from ttlib_peft.counting import count_adapter

LLAMA_SIDES = {"gate_proj": "input", "up_proj": "input", "down_proj": "output"}


def both_ways(sizes):
    """Shapes for a matrix and, reversed, for its transpose."""
    return {
        **sizes,
        **{"x".join(reversed(size.split("x"))): list(reversed(modes)) for size, modes in sizes.items()},
    }


BOTTLENECK = {
    768: [8, 8, 12, 8, 8],
    1024: [4, 4, 8, 8, 64],
    4096: [16, 16, 16, 4, 4, 4],
    5120: [5, 8, 8, 16, 8, 8],
    8192: [4, 16, 16, 8, 16, 4],
}
UPDATE = {
    768: [8, 8, 12, 8],
    1024: [64, 8, 2, 2, 4],
    2304: [9, 4, 8, 8, 8],
    4096: [32, 8, 16, 8],
    5120: [8, 8, 10, 8, 8],
    8192: [16, 32, 2, 8, 4, 2],
}
HEAD = {"768x768": [8, 8, 12, 12, 8, 8], "1024x1024": [4, 16, 4, 4, 4, 4, 16, 4]}


def ranks(modes, rank=5):
    """As the reference has them: one constant, also where a bond could not carry it."""
    return [rank] * (len(modes) - 1)


def with_head(name, hidden):
    """Settings of a tensorised pooler or classifier."""
    size = f"{hidden}x{hidden}"
    return {name: ranks(HEAD[size])}, {"tensorize_modules": [name], "task_type": "SEQ_CLS"}


def adp(hidden, head=None, **settings):
    pattern, more = ({}, {"task_type": "CAUSAL_LM"}) if head is None else with_head(head, hidden)
    return LorettaAdpConfig(
        bottleneck=64,
        tensor_rank=ranks(BOTTLENECK[hidden]),
        tensor_rank_pattern=pattern,
        tensor_shape={**both_ways({f"{hidden}x64": BOTTLENECK[hidden]}), **HEAD},
        **more,
        **settings,
    )


def rep(hidden, head=None, *, rank=5, shapes=UPDATE, outputs=None, **settings):
    """*outputs* gives the sizes that differ from *hidden*, by module."""
    pattern, more = ({}, {"task_type": "CAUSAL_LM"}) if head is None else with_head(head, hidden)
    for name, size in (outputs or {}).items():
        pattern[name] = {"A": ranks(shapes[hidden], rank), "B": ranks(shapes[size], rank)}
    modes = both_ways({f"{size}x8": shapes[size] for size in (hidden, *(outputs or {}).values())})
    return LorettaRepConfig(
        r=8,
        tensor_rank=ranks(shapes[hidden], rank),
        tensor_rank_pattern=pattern,
        tensor_shape={**modes, **HEAD},
        train_norms=True,
        **more,
        **settings,
    )


POOLER, DENSE = "pooler.dense", "classifier.dense"
RANK_8 = {4096: [16, 16, 8, 2, 2, 4]}

ROWS = {
    "deberta-base adp, norms frozen by its bug": ("deberta-base", adp(768, POOLER), 60_794),
    "deberta-base adp with the norms": ("deberta-base", adp(768, POOLER, train_norms=True), 99_194),
    "roberta-base adp": ("roberta-base", adp(768, DENSE), 60_794),
    "roberta-large adp": ("roberta-large", adp(1024, DENSE), 137_178),
    "deberta-base rep": ("deberta-base", rep(768, POOLER, outputs={"in_proj": 2304}), 55_766),
    "roberta-base rep": ("roberta-base", rep(768, DENSE), 69_626),
    "roberta-large rep": ("roberta-large", rep(1024, DENSE), 166_106),
    "llama-2-7b adp": ("llama-2-7b", adp(4096, placement=LLAMA_SIDES), 610_560),
    "llama-2-13b adp": ("llama-2-13b", adp(5120, placement=LLAMA_SIDES), 877_680),
    "llama-2-70b adp": ("llama-2-70b", adp(8192, placement=LLAMA_SIDES), 2_672_640),
    "llama-2-7b rep": ("llama-2-7b", rep(4096), 368_640),
    "llama-2-7b rep, rank 8": ("llama-2-7b", rep(4096, rank=8, shapes=RANK_8), 516_096),
    "llama-2-13b rep": ("llama-2-13b", rep(5120), 531_520),
    "llama-2-70b rep": ("llama-2-70b", rep(8192, outputs={"v_proj": 1024}), 1_667_712),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_released_librarys_counts(row):
    model, config, expected = ROWS[row]
    assert count_adapter(model, config).trained["total"] == expected
