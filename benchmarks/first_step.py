"""What each start of ttlib does to the first step of an adapted weight, on a weight of a real model.

    python benchmarks/first_step.py           # writes the table into docs/initialisation.md

The weight W is the query projection of the first layer of MiniLM-L6.  A tensor train beside it is to learn a full-rank
change of W of a tenth of its norm from Gaussian inputs, by the mean squared error; one Adam step (each number moves by
the learning rate) is taken.  The same data, target and step for every start; means over ten seeds.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ttlib  # noqa: E402  # after the path, so that the file runs as a script
from ttlib_peft.finetune.embedded import embedded_model_folder  # noqa: E402

PAGE = ROOT / "docs" / "initialisation.md"
WEIGHT = "encoder.layer.0.attention.self.query.weight"
SHAPE, RANKS = (6, 8, 8, 8, 8, 6), 5
STEP, SEEDS, INPUTS = 1e-3, 10, 512

Update = Callable[[tuple[torch.Tensor, ...]], torch.Tensor]


def dense(cores: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The (384, 384) matrix of a train."""
    return ttlib.TensorTrain(cores).to_matrix(384, 384)


def minus_start(start: tuple[torch.Tensor, ...]) -> Update:
    """The update whose start has been taken out."""

    def update(cores: tuple[torch.Tensor, ...]) -> torch.Tensor:
        p, q = ttlib.noise_reduction.displaced_factors(cores, initial=start, split=3)
        return p @ q

    return update


def starts(weight: torch.Tensor, seed: int) -> dict[str, tuple[tuple[torch.Tensor, ...], Update]]:
    """The cores and the update of the weight that they make, for every start."""
    std = 0.02
    gaussian = ttlib.random(SHAPE, ranks=RANKS, std=std, seed=seed, like=weight).cores
    orthogonal = ttlib.random_orthogonal(SHAPE, ranks=RANKS, std=std, seed=seed, like=weight).cores
    leading, trailing = (
        ttlib.spectral_start(weight, shape=SHAPE, ranks=RANKS, part=part).train.cores
        for part in ("leading", "trailing")
    )
    return {
        "`random`": (gaussian, dense),
        "`random_orthogonal`": (orthogonal, dense),
        "`random`, last core zero": ((*gaussian[:-1], 0 * gaussian[-1]), dense),
        "`random`, start removed": (gaussian, minus_start(gaussian)),
        "`random_orthogonal`, start removed": (orthogonal, minus_start(orthogonal)),
        '`spectral_start`, "leading"': (leading, minus_start(leading)),
        '`spectral_start`, "trailing"': (trailing, minus_start(trailing)),
    }


def first_step(weight: torch.Tensor, cores: tuple[torch.Tensor, ...], update: Update, seed: int) -> list[float]:
    """Size of the start, cores with a gradient, spread of the gradients, size of the step, loss after / unadapted."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(INPUTS, 384, generator=generator)
    change = torch.randn(384, 384, generator=generator)
    change *= 0.1 * weight.norm() / change.norm()
    cores = tuple(core.clone().requires_grad_() for core in cores)

    def loss(delta: torch.Tensor) -> torch.Tensor:
        return (x @ (delta - change)).square().mean()

    start = update(cores)
    loss(start).backward()
    gradients = [float(core.grad.norm()) for core in cores]
    torch.optim.Adam(cores, lr=STEP).step()
    moved = update(cores).detach()
    live = [g for g in gradients if g > 0]
    return [
        float(start.detach().norm() / weight.norm()),
        len(live),
        max(live) / min(live),
        float((moved - start.detach()).norm() / weight.norm()),
        float(loss(moved) / loss(torch.zeros_like(change))),
    ]


def table() -> str:
    """The table as Markdown."""
    weight = load_file(embedded_model_folder("minilm-l6") / "model.safetensors")[WEIGHT].T.contiguous().float()
    seen: dict[str, list[list[float]]] = {}
    for seed in range(SEEDS):
        for name, (cores, update) in starts(weight, seed).items():
            seen.setdefault(name, []).append(first_step(weight, cores, update, seed))
    lines = [
        "| start | ‖ΔW‖ / ‖W‖ before | cores with a gradient | largest / smallest gradient | "
        "‖step‖ / ‖W‖ | loss after / loss without adapter |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in seen.items():
        size, live, spread, step, loss = (statistics.fmean(column) for column in zip(*runs, strict=True))
        lines.append(f"| {name} | {size:.3f} | {live:.0f} of {len(SHAPE)} | {spread:.1f} | {step:.4f} | {loss:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Put the table between its marks in the page."""
    pattern = r"(<!-- table first-step -->\n).*?(<!-- end -->)"
    content = table()
    text, found = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}", PAGE.read_text(), flags=re.DOTALL)
    if found != 1:
        sys.exit(f"{PAGE} has no place for the table")
    PAGE.write_text(text)
    print(content)


if __name__ == "__main__":
    main()
