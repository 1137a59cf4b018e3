"""What a training step of each method costs: the paper's Table 5, which prints the time of memory copies as memory.

Time: CPU seconds on one thread, every method in turn with LoRA r=8 right after it, so that a change of the machine's
speed meets both.  Memory: the peak of all tensors that a step makes, to the byte, as PyTorch's allocator saw them: what
is kept for the backward pass and the gradients, but neither weights nor optimiser, which stand in columns of their own.
Operations: those of the matrix products, forward and backward, by PyTorch's counter (a train calculates with plain
operations while it is watched: under 0.3% more than otherwise).  Files: what is really written to the disk, names and
shapes included, and of trains with a residual start the numbers that they began with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.measure import Entrant, Measure
from benchmarks.paper import models
from benchmarks.paper.methods import METHODS, count_parameters, make_trainable
from benchmarks.paper.paper_rows import ROWS, TABLES
from benchmarks.paper.results import environment
from benchmarks.paper.sizes import paper_counts, ratios
from ttlib._files import replacing
from ttlib_peft.advice import without_advice

REFERENCE = "lora-8"
os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler says on stderr that it starts and that it stops
_RATE = 1e-4


@dataclass(frozen=True, slots=True)
class Workload:
    """Full rows of random tokens, for each of some methods on one model."""

    model: str
    methods: tuple[str, ...]
    rows: int
    tokens: int
    rounds: int


_ON_DECODERS = ("adapters-64", REFERENCE, "loretta-rep", "loretta-adp")
WORKLOADS = (
    Workload("minilm", tuple(METHODS), rows=16, tokens=64, rounds=5),
    Workload("smollm2", _ON_DECODERS, rows=1, tokens=128, rounds=5),
)
QUICK = (
    Workload("tiny-bert", tuple(METHODS), rows=4, tokens=16, rounds=1),
    Workload("tiny-llama", _ON_DECODERS, rows=1, tokens=16, rounds=1),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured of one method.

    Attributes:
        model, method, rows, tokens: as in the workload.
        trained: parameters: adapters, norms, head, body, total.
        weight_bytes: of the whole model, the method's weights included.
        seconds: CPU time of a step, median.
        ratio: to the step of LoRA r=8 right after it, median.
        rounds: how often both were timed.
        flops: operations of a step's matrix products, forward and backward.
        peak_bytes: the most that the tensors of a step take at once.
        optimiser_bytes: AdamW's state.
        file_bytes: what is saved of the method.
    """

    model: str
    method: str
    rows: int
    tokens: int
    trained: Mapping[str, int]
    weight_bytes: int
    seconds: float
    ratio: float
    rounds: int
    flops: int
    peak_bytes: int
    optimiser_bytes: int
    file_bytes: int


class Step:
    """A training step: forward, loss, backward and AdamW, always on the same batch."""

    def __init__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> None:
        self.model, self.batch = model.train(), batch
        self.optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=_RATE)

    def __call__(self) -> None:
        """Train once."""
        self.optimiser.zero_grad()
        self.model(**self.batch).loss.backward()
        self.optimiser.step()


def write(path: Path, *, quick: bool = False, echo: Callable[[str], None] = print) -> None:
    """Measure all, and write costs.json: `costs` of methods, `sizes` of the paper's models, `ratios` between these.

    `quick` measures tiny models once and counts a few of the paper's: the form is the same, the times mean nothing.
    """
    counts = paper_counts(TABLES["t1-roberta"] if quick else ROWS)
    commit, versions = environment()
    content = {
        "commit": commit,
        "versions": versions,
        "costs": [row for workload in (QUICK if quick else WORKLOADS) for row in measure(workload, echo=echo)],
        "sizes": [count.to_json() for count in counts],
        "ratios": list(ratios(counts)),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    echo(f"wrote {path}")


def measure(workload: Workload, *, echo: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure a workload: a `Cost` as plain values for each of its methods."""
    with _one_thread():
        steps = {method: Step(_model(workload.model, method), _batch(workload)) for method in workload.methods}
        for step in steps.values():
            step()  # the first one makes the optimiser's state
        times = _race(steps, workload.rounds)
        costs = []
        for method, step in steps.items():
            cost = _cost(workload, method, step, times[method])
            echo(
                f"{workload.model:12}{method:14}{cost.seconds:9.4f} s{cost.ratio:7.3f}{cost.peak_bytes / 1e6:10.1f} MB"
            )
            costs.append(asdict(cost))
    return costs


def flops(work: Callable[[], object]) -> int:
    """Operations of all matrix products in some work, a multiplication and an addition as two."""
    aten = torch.ops.aten
    # PyTorch's own table has attention on a GPU only.
    on_the_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=on_the_cpu) as counter:
        work()
    return counter.get_total_flops()


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that tensors made by some work take at once, on top of those that were there."""
    with profile(use_cpu=True, profile_memory=True) as watched:
        work()
    events = watched.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes), default=0)


def optimiser_bytes(optimiser: torch.optim.Optimizer) -> int:
    """The state of an optimiser; AdamW's is two numbers for each trained one and a counter for each tensor."""
    tensors = (value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor))
    return sum(tensor.nbytes for tensor in tensors)


def file_bytes(model: nn.Module) -> int:
    """The file that brings a trained model back, with the base model: PEFT's, where that has all that is trained."""
    with TemporaryDirectory() as folder:
        if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
            model.save_pretrained(folder, save_embedding_layers=False)
        else:
            save_file(_trained(model), Path(folder, "model.safetensors"))
        return sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """All that is trained; of virtual tokens, as PEFT has it, what their encoder made of them and not the encoder."""
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if not isinstance(model, PeftModel):
        return trained
    tokens = model.get_prompt_embedding_to_save(model.active_adapter)
    return {"tokens": tokens, **{name: own for name, own in trained.items() if not name.startswith("prompt_encoder.")}}


def _cost(workload: Workload, method: str, step: Step, time: Measure) -> Cost:
    assert time.seconds is not None
    assert time.ratio is not None
    operations = flops(step)
    step.optimiser.zero_grad()  # the gradients are new in every step
    return Cost(
        model=workload.model,
        method=method,
        rows=workload.rows,
        tokens=workload.tokens,
        trained=count_parameters(step.model),
        weight_bytes=sum(parameter.nbytes for parameter in step.model.parameters()),
        seconds=time.seconds,
        ratio=time.ratio,
        rounds=time.rounds,
        flops=operations,
        peak_bytes=peak_bytes(step),
        optimiser_bytes=optimiser_bytes(step.optimiser),
        file_bytes=file_bytes(step.model),
    )


def _model(name: str, method: str) -> nn.Module:
    with without_advice():
        return make_trainable(models.build(name, labels=_classes(name), seed=0), method, seed=0)


def _classes(model: str) -> int | None:
    return 2 if models.MODELS[model].kind == "encoder" else None


def _batch(workload: Workload) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = _classes(workload.model)
    size = models.skeleton(workload.model, labels=classes).config.vocab_size
    tokens = torch.randint(1, size, (workload.rows, workload.tokens), generator=generator)
    labels = tokens if classes is None else torch.arange(workload.rows) % classes
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def _race(steps: Mapping[str, Step], rounds: int) -> dict[str, Measure]:
    """Time every step in turn, that of LoRA r=8 after each of the others."""
    entrants = {method: Entrant(step, sample_seconds=0.0) for method, step in steps.items()}
    reference = entrants[REFERENCE]
    for _ in range(rounds):
        for entrant in entrants.values():
            entrant.sample()
            if entrant is reference:
                entrant.ratios.append(1.0)
            else:
                reference.sample()
                entrant.ratios.append(entrant.seconds[-1] / reference.seconds[-1])
    return {method: entrant.measure() for method, entrant in entrants.items()}


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
