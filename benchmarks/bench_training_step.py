"""A whole training step of a LLaMA-shaped model, optimiser included, against the same model with LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.networks import LORA_RANK, METHODS

COST, ROUNDS = 1.03, 9
BATCH, LENGTH, VOCABULARY = 2, 128, 512


def _base(*, tiny: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=36 if tiny else 576,
            intermediate_size=96 if tiny else 1536,
            num_hidden_layers=2 if tiny else 30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=VOCABULARY,
        )
    )


def _step(config: Any, tokens: torch.Tensor, *, tiny: bool) -> Callable[[], float]:
    model = get_peft_model(_base(tiny=tiny), config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()

    def run() -> float:
        optimiser.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return run


@pytest.mark.parametrize("method", [pytest.param("rep", marks=pytest.mark.quick), "adp"])
def bench_training_step(method: str, race, scale) -> None:
    """Forward, loss, backward and AdamW with the query and value projections adapted."""
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    common = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    record = race(
        table="Training step",
        case=f"{method}, {BATCH} x {LENGTH} tokens, AdamW",
        ours=_step(METHODS[method](**common), tokens, tiny=scale.tiny),
        peers={"LoRA": _step(LoraConfig(r=LORA_RANK, **common), tokens, tiny=scale.tiny)},
        rounds=ROUNDS,
    )
    record.cost("LoRA", COST)
