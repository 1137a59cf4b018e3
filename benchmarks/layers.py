"""Adapted linear layers against PEFT's LoRA on the same layer, forward and forward + backward."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.timing import compare
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

TOKENS = (16, 1024)
SIZES = (384, 768)
METHODS = {
    "rep residual": lambda: LorettaRepConfig(target_modules=["0"], init_weights="residual"),
    "rep zero": lambda: LorettaRepConfig(target_modules=["0"], init_weights="zero"),
    "adp residual": lambda: LorettaAdpConfig(target_modules=["0"], init_weights="residual"),
    "adp zero": lambda: LorettaAdpConfig(target_modules=["0"], init_weights="zero"),
}


def adapted(config, size: int) -> nn.Module:
    """One frozen linear layer with an adapter."""
    torch.manual_seed(0)
    return get_peft_model(nn.Sequential(nn.Linear(size, size)), config)


def forward(model: nn.Module, x: torch.Tensor):
    """A forward pass without gradients."""

    def run():
        with torch.no_grad():
            model(x)

    return run


def step(model: nn.Module, x: torch.Tensor):
    """A forward and a backward pass, down to the input as inside a network."""

    def run():
        model(x).sum().backward()

    return run


def rows(rounds: int = 15) -> list[str]:
    """One line of the table a method, size and number of tokens."""
    lines = []
    for size in SIZES:
        for tokens in TOKENS:
            x = torch.randn(tokens, size, requires_grad=True)
            lora = adapted(LoraConfig(r=8, target_modules=["0"]), size)
            for name, config in METHODS.items():
                model = adapted(config(), size)
                one = compare(forward(model, x), forward(lora, x), rounds=rounds)
                both = compare(step(model, x), step(lora, x), rounds=rounds)
                trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
                lines.append(f"| {size} | {tokens} | {name} | {trained:,} | {one.ratio:.2f} | {both.ratio:.2f} |")
    return lines


def table() -> str:
    """The table as Markdown."""
    head = [
        "| layer | tokens | method | trained | forward / LoRA | forward + backward / LoRA |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join(head + rows())
