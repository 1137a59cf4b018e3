"""Every part of the study once, on random models of a few thousand weights: to see that it works, not what it says."""

from __future__ import annotations

from benchmarks.paper.cells import Budget, Cell, options
from benchmarks.paper.profile import Profile

SEEDS = (0, 1)
RATES = (1e-3, 1e-2)
BUDGET = Budget(steps=3, batch_size=4, max_length=16)
OURS = ("loretta-rep", "loretta-adp")
METHODS = ("lora-8", *OURS, "adapters-8", "prompt", "meta-tt", "norms-head")  # each way of building one


def _cells(
    method: str, *tasks: str, model: str = "tiny-bert", curve_every: int = 0, **settings: object
) -> tuple[Cell, ...]:
    return tuple(
        Cell(model, method, tasks, seed, BUDGET, options=options(**settings), curve_every=curve_every) for seed in SEEDS
    )


PROFILE = Profile(
    name="smoke",
    description="random models of two layers",
    studies={
        "t1": tuple(cell for method in METHODS for cell in _cells(method, "sst2")),
        "t6": (*_cells("loretta-rep", "sst2"), *_cells("loretta-rep", "sst2", tensor_rank=2)),
        "t7": (*_cells("loretta-adp", "sst2"), *_cells("loretta-adp", "sst2", tensor_shape=(("32x64", (32, 64)),))),
        "t11": tuple(cell for norms in (True, False) for cell in _cells("loretta-adp", "sst2", train_norms=norms)),
        "init": (*_cells("loretta-rep", "sst2"), *_cells("loretta-rep", "sst2", init_weights="gaussian")),
        "t4": tuple(cell for method in ("lora-8", "loretta-adp") for cell in _cells(method, "sst2", "cola")),
        "curves": tuple(cell for method in ("lora-8", "loretta-rep") for cell in _cells(method, "sst2", curve_every=1)),
        "lm": tuple(
            cell
            for method, task in (("lora-8", "copa"), ("loretta-rep", "copa"), ("loretta-adp", "squad"))
            for cell in _cells(method, task, model="tiny-llama")
        ),
    },
    tuning={
        f"{model}/{method}": tuple(
            Cell(model, method, (task,), 100, BUDGET, learning_rate=rate, scored_on="tune") for rate in RATES
        )
        for model, task, methods in (("tiny-bert", "sst2", METHODS), ("tiny-llama", "copa", ("lora-8", *OURS)))
        for method in methods
    },
)
