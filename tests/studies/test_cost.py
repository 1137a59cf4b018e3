"""What a training step costs: every instrument against a hand calculation, and the file that they are written to."""

import json
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.paper import cost, models
from benchmarks.paper.methods import METHODS, make_trainable

ROWS, WIDTH, OUT, RANK = 7, 12, 20, 3


def tiny(method):
    return make_trainable(models.build("tiny-bert", labels=2, seed=0), method, seed=0)


def test_flops_of_a_linear_layer_with_lora():
    """Forward: x W, x A, (x A) B; backward: B's and A's gradients and what goes through B; x and W need none."""
    model = get_peft_model(nn.Sequential(nn.Linear(WIDTH, OUT)), LoraConfig(r=RANK, target_modules=["0"]))
    x = torch.ones(ROWS, WIDTH)
    products = WIDTH * OUT + RANK * (WIDTH + OUT) + RANK * OUT + RANK * OUT + RANK * WIDTH
    assert cost.flops(lambda: model(x).sum().backward()) == 2 * ROWS * products


@pytest.mark.parametrize("differentiated", [False, True])
def test_flops_of_attention_on_a_cpu(differentiated):
    """Two products forward; five backward, one of which makes the scores again."""
    query, key, value = (torch.ones(2, 3, 5, 8, requires_grad=differentiated) for _ in range(3))

    def work():
        attended = scaled_dot_product_attention(query, key, value)
        if differentiated:
            attended.sum().backward()

    assert cost.flops(work) == (7 if differentiated else 2) * 2 * (2 * 3) * 5 * 5 * 8


def test_trains_cost_hardly_more_operations_than_lora():
    """Of a base model that is far larger than its adapter, which all methods go through once."""
    batch = {"input_ids": torch.ones(2, 16, dtype=torch.long), "labels": torch.tensor([0, 1])}
    counted = {method: cost.flops(cost.Step(tiny(method), batch)) for method in ("head", "lora-8", "loretta-rep")}
    assert counted["head"] < counted["lora-8"] < counted["loretta-rep"] < 1.3 * counted["lora-8"]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=20))
def test_peak_of_tensors_that_come_and_go(plan):
    """Each entry makes a tensor, and lets go of the oldest one that is left if it says so."""
    changes = []
    for at, (size, frees) in enumerate(plan):
        freed = sum(own for _, own in plan[: at + 1] if own)  # how many were let go of, this one included
        changes += [4 * size] + [-4 * plan[freed - 1][0]] * frees

    def work():
        kept = []
        for size, frees in plan:
            kept.append(torch.empty(size))
            if frees:
                kept.pop(0)

    assert cost.peak_bytes(work) == max(accumulate(changes))


def test_peak_leaves_out_what_was_there_before():
    kept = torch.zeros(1000)
    assert cost.peak_bytes(lambda: kept.add_(1)) < 100
    assert cost.peak_bytes(lambda: None) == 0


def test_adamw_keeps_two_numbers_a_parameter_and_a_counter_a_tensor():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    model[0].weight.requires_grad_(False)
    step = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert cost.optimiser_bytes(step) == 0
    model(torch.ones(1, 3)).sum().backward()
    step.step()
    assert cost.optimiser_bytes(step) == 2 * 4 * (5 + 10 + 2) + 4 * 3


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_file_holds_what_is_trained(method):
    """The tokens of P-tuning in place of the encoder that makes them; names and shapes come on top."""
    model = tiny(method)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if method == "p-tuning":
        encoder = sum(p.numel() for p in model.prompt_encoder.parameters())
        trained += 20 * 32 - encoder
    size, header = cost.file_bytes(model), 16_000
    assert 4 * trained <= size < 4 * trained + header


def test_every_method_is_measured():
    workload = cost.Workload("tiny-bert", ("full", "lora-8", "loretta-adp"), rows=2, tokens=8, rounds=2)
    said = []
    rows = {row["method"]: row for row in cost.measure(workload, echo=said.append)}
    assert list(rows) == list(workload.methods)
    assert len(said) == len(rows)
    for row in rows.values():
        total = row["trained"]["total"]
        assert row["peak_bytes"] >= 4 * total  # the gradients are there at the end
        assert 8 * total < row["optimiser_bytes"] <= 8 * total + 4 * 200
        assert row["seconds"] > 0
    assert rows["lora-8"]["ratio"] == 1
    assert rows["full"]["rounds"] == 2
    assert min(row["flops"] for row in rows.values()) > 0
    assert rows["full"]["file_bytes"] > rows["loretta-adp"]["file_bytes"]


def test_measuring_gives_the_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError, match="lora-8"):
        cost.measure(cost.Workload("tiny-bert", ("head",), rows=2, tokens=8, rounds=1), echo=lambda _: None)
    assert torch.get_num_threads() == before


def test_the_same_step_takes_the_same_memory_and_operations():
    workload = cost.Workload("tiny-llama", ("lora-8",), rows=1, tokens=8, rounds=1)
    first, second = (cost.measure(workload, echo=lambda _: None)[0] for _ in range(2))
    exact = ("flops", "peak_bytes", "optimiser_bytes", "file_bytes", "weight_bytes", "trained")
    assert [first[name] for name in exact] == [second[name] for name in exact]


def test_the_file(tmp_path, monkeypatch):
    short = tuple(cost.Workload(own.model, (*own.methods[-2:], "lora-8"), 2, 8, 1) for own in cost.QUICK)
    monkeypatch.setattr(cost, "QUICK", short)
    target = tmp_path / "results" / "costs.json"
    cost.write(target, quick=True, echo=lambda _: None)
    content = json.loads(target.read_text())
    assert set(content) == {"commit", "versions", "costs", "sizes", "ratios"}
    assert {(row["model"], row["method"]) for row in content["costs"]} == {
        (own.model, method) for own in short for method in own.methods
    }
    assert [own.name for own in target.parent.iterdir()] == ["costs.json"]
    rep = next(row for row in content["sizes"] if row["method"] == "loretta-rep")
    assert (rep["trained"]["total"], rep["float32_bytes"], rep["bfloat16_bytes"]) == (67_928, 4 * 67_928, 2 * 67_928)
    assert {row["model"] for row in content["ratios"]} <= {"roberta-base"}
