"""Adaptive against fixed ranks at equal size: the tables of docs/adaptive_ranks.md.

python benchmarks/adaptive_ranks.py branches   # one of three layers has something to learn
python benchmarks/adaptive_ranks.py news       # the demonstration's task, three seeds, about 8 minutes
"""

from __future__ import annotations

import copy
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from initialisation import training_articles
from peft import get_peft_model
from torch import nn

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, RankAllocator, RankBudgetCallback, TTLinear
from ttlib_peft.finetune import run_finetune
from ttlib_peft.finetune.demo import demo_settings

SHAPES = {"64x16": [8, 8, 4, 4], "16x64": [4, 4, 8, 8]}
STEPS = 300
NEWS_BUDGET = 1_824  # what rank 2 has with its own shapes


class Branches(nn.Module):
    """Three layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([layer(x).tanh() for layer in (self.a, self.b, self.c)], dim=-1)


def config_of(method: str, start: str, rank: int, seed: int) -> LorettaRepConfig | LorettaAdpConfig:
    settings = {
        "tensor_rank": rank,
        "tensor_shape": SHAPES,
        "init_weights": start,
        "seed": seed,
        "target_modules": ["a", "b", "c"],
    }
    if method == "rep":
        return LorettaRepConfig(r=16, alpha=16, **settings)
    return LorettaAdpConfig(bottleneck=16, non_linearity="tanh", **settings)


def error_left(method: str, start: str, rank: int, seed: int, *, adaptive: bool) -> tuple[float, int]:
    """Train on a teacher whose layer b is moved by two trains of rank 4; return the error left and the core entries."""
    torch.manual_seed(seed)
    net = Branches()
    teacher = copy.deepcopy(net)
    factors = [
        TTLinear(*sizes, tensor_rank=4, shape=SHAPES["{}x{}".format(*sizes)], bias=False)
        for sizes in ((64, 16), (16, 64))
    ]
    with torch.no_grad():
        moved = factors[0].to_dense() @ factors[1].to_dense()
        teacher.b.weight += (0.15 / moved.std() * moved).T
    model = get_peft_model(net, config_of(method, start, rank, seed))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, STEPS)
    allocator = RankAllocator(model, total_steps=STEPS, target_rank=2) if adaptive else None
    for _ in range(STEPS):
        x = torch.randn(64, 64)
        ((model(x) - teacher(x).detach()) ** 2).mean().backward()
        optimizer.step()
        if allocator is not None:
            allocator.step()
        optimizer.zero_grad()
        schedule.step()
    if allocator is not None:
        allocator.remove(optimizer)
    x = torch.randn(2_000, 64)
    with torch.no_grad():
        error = float(((model.eval()(x) - teacher(x)) ** 2).mean())
    return error, sum(p.numel() for name, p in model.named_parameters() if name.endswith("flat"))


def branches() -> None:
    for method, start in product(("rep", "adp"), ("residual", "zero")):
        for kind, rank, adaptive in (("fixed 2", 2, False), ("adaptive", 8, True), ("fixed 8", 8, False)):
            runs = [error_left(method, start, rank, seed, adaptive=adaptive) for seed in (0, 1)]
            print(method, start, kind, [f"{error:.4f}" for error, _ in runs], "parameters", {size for _, size in runs})


def news() -> None:
    for seed, adaptive in product((0, 1, 2), (False, True)):
        with tempfile.TemporaryDirectory() as folder:
            demo = demo_settings(Path(folder, "run"))
            settings = replace(
                demo,
                data=str(training_articles(Path(folder))),
                methods=("loretta-rep",),
                learning_rate=1e-2,
                seed=seed,
                max_steps=168,
                eval_steps=168,
                overwrite=False,
                tensor_rank=5 if adaptive else 2,
            )
            callbacks = [RankBudgetCallback(budget=NEWS_BUDGET)] if adaptive else []
            result = run_finetune(settings, callbacks=callbacks).results[0]
        losses = [entry["eval_loss"] for entry in result.history if "eval_loss" in entry]
        kind = "adaptive" if adaptive else "fixed"
        print(kind, "seed", seed, f"eval loss {losses[-1]:.3f}, accuracy {100 * result.accuracy:.2f} %", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"branches": branches, "news": news}[sys.argv[1]]()
