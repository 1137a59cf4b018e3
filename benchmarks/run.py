"""Measure ttlib against its peers in one run and write docs/benchmarks.md."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import decomposition, layers, rounding  # noqa: E402  # after the path, so that the file runs as a script

PAGE = """# Speed

Written by `make bench`; times are process CPU seconds, one thread, ours and the peer's in turn in one run. Trust the
ratios, not the milliseconds: below 1 is faster than the peer.

Measured with Python {python}, numpy {numpy}, torch {torch}, tensorly {tensorly}, torchTT {torchTT}, peft {peft} on
{machine}.

## TT-SVD against tensorly, float32, numpy

{decomposition}

Both find the same tensor; the error column shows how little of a Gaussian matrix survives a low rank.

## Rounding against torchTT, float64, torch

{rounding}

The sums have four terms and the rank of one. The second table is `ttlib.round_sum`, randomised, against `round` of the
formed sum: it pays from a dozen terms on.

## Adapted layers against PEFT's LoRA r=8, float32

A frozen linear layer with one adapter; LoRETTA with `r=8`, `tensor_rank=5`, `bottleneck=64`. LoRA trains 6,144
(384) and 12,288 (768) parameters.

{layers}

The adapter is part of a network whose frozen layers cost the same for every method, so whole steps differ less; the
table of `make demo` shows seconds per step.
"""


def version_of(package: str) -> str:
    """The version of a package, or that it is not there: torchTT compiles C++, which not every machine can."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run all and write the page."""
    torch.set_num_threads(1)
    versions = {name: version_of(name) for name in ("numpy", "torch", "tensorly", "torchTT", "peft")}
    page = PAGE.format(
        python=platform.python_version(),
        machine=platform.machine(),
        decomposition=decomposition.table(),
        rounding=rounding.table(),
        layers=layers.table(),
        **versions,
    )
    (ROOT / "docs" / "benchmarks.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
