"""Adaptive ranks: the choice, the switch, the removal, the optimiser's continuation, the Trainer and its checkpoints."""

import copy
import json
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from peft import LoraConfig, PeftModel, get_peft_model
from torch import multiprocessing, nn
from transformers import Trainer, TrainingArguments

import ttlib
from tests.peft.tiny import bert, shake, tokens
from ttlib.cost import count_parameters
from ttlib.errors import RankError, ShapeError
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, TTLinear, save_as_lora
from ttlib_peft.rank_adaptation import RankAllocator, RankBudgetCallback
from ttlib_peft.rank_adaptation.selection import select_indices

CONFIGS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}


@pytest.fixture(params=CONFIGS)
def config_class(request):
    return CONFIGS[request.param]


class Branches(nn.Module):
    """Three layers side by side: what one has to learn is nothing to the others."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        return torch.cat([self.a(x).tanh(), self.b(x).tanh(), self.c(x).tanh()], dim=-1)


def branches(config_class=LorettaRepConfig, scheme="residual", rank=5, **extra):
    torch.manual_seed(0)
    extra |= {"r": 8} if config_class is LorettaRepConfig else {"bottleneck": 8, "non_linearity": "tanh"}
    config = config_class(
        tensor_rank=rank, target_modules=["a", "b", "c"], init_weights=scheme, seed=0,
        tensor_shape={"32x8": [4, 8, 4, 2], "8x32": [2, 4, 8, 4]}, **extra,
    )  # fmt: skip
    return get_peft_model(Branches(), config)


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def stored(model):
    """Numbers in the cores, as they are."""
    return sum(module.flat.numel() for module in model.modules() if isinstance(module, TTLinear))


def teach(model, allocator, optimizer, target, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 32, generator=generator)
        ((model(x) - target(x)) ** 2).mean().backward()
        optimizer.step()
        if allocator is not None:
            allocator.step()
        optimizer.zero_grad()


def high_rank_teacher():
    """What layer b alone has to become: its weight and an update of full rank."""
    torch.manual_seed(0)
    target = Branches()
    with torch.no_grad():
        target.b.weight += 0.2 * torch.randn(32, 32)
    return target.requires_grad_(False)


# the choice


@st.composite
def choices(draw):
    shapes, importance = [], []
    for _ in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))
        ranks = ttlib.clip_ranks(shape, draw(st.integers(1, 4)))
        shapes.append(shape)
        importance.append([draw(st.lists(st.floats(0, 10), min_size=rank, max_size=rank)) for rank in ranks[1:-1]])
    low, high = (
        sum(count_parameters(shape, ranks=[1 if one else len(bond) for bond in own])
            for shape, own in zip(shapes, importance, strict=True))
        for one in (True, False)
    )  # fmt: skip
    return shapes, importance, draw(st.integers(low, high))


@given(choices())
def test_the_choice_meets_the_budget_with_the_most_important_indices_of_each_bond(case):
    shapes, importance, budget = case
    kept = select_indices(shapes, importance, budget)
    total = sum(
        count_parameters(shape, ranks=[len(bond) for bond in own]) for shape, own in zip(shapes, kept, strict=True)
    )
    assert total <= budget
    for shape, scores, own in zip(shapes, importance, kept, strict=True):
        for bond, indices in zip(scores, own, strict=True):
            assert indices == sorted(set(indices))
            given_up = [value for index, value in enumerate(bond) if index not in indices]
            assert indices
            assert min(bond[index] for index in indices) >= max(given_up, default=0.0)
        ranks = [1, *map(len, own), 1]
        if 1 not in shape:  # modes of 1 can force a rank that its neighbour does not carry
            assert ttlib.clip_ranks(shape, ranks) == tuple(ranks)


@given(choices())
def test_nothing_that_was_given_up_would_still_fit(case):
    shapes, importance, budget = case
    kept = select_indices(shapes, importance, budget)
    ranks = [[1, *map(len, own), 1] for own in kept]
    spare = budget - sum(count_parameters(s, ranks=r) for s, r in zip(shapes, ranks, strict=True))
    fits = [
        (train, bond)
        for train, (shape, own) in enumerate(zip(shapes, ranks, strict=True))
        for bond in range(1, len(shape))
        if own[bond] < len(importance[train][bond - 1])
        and own[bond] < min(own[bond - 1] * shape[bond - 1], shape[bond] * own[bond + 1])
        and own[bond - 1] * shape[bond - 1] + shape[bond] * own[bond + 1] <= spare
    ]
    # what is taken back can widen what its neighbour may carry, but the dearest that fits is never left
    assert len(fits) <= sum(len(shape) - 2 for shape in shapes)


def test_the_budget_moves_to_the_train_that_needs_it():
    kept = select_indices([(4, 4), (4, 4)], [[[1.0, 1.0, 1.0]], [[9.0, 9.0, 9.0]]], budget=8 + 3 * 8)
    assert kept == [[[0]], [[0, 1, 2]]]


# cutting cores


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_cores_keep_the_entries_of_the_indices_that_stay(dtype):
    layer = TTLinear(16, 6, tensor_rank=3, shape=[4, 4, 3, 2], bias=False, dtype=dtype)
    layer.keep_start()
    with torch.no_grad():
        layer.flat.mul_(2)
    layer.flat.grad = torch.arange(layer.flat.numel(), dtype=dtype)
    before, flat = [core.detach().clone() for core in layer.cores], layer.flat
    kept = [[0, 2], [1], [0, 1]]
    entries = layer.keep_indices(kept)
    bonds = [[0], *kept, [0]]
    for k, core in enumerate(layer.cores):
        assert torch.equal(core, before[k][bonds[k]][:, :, bonds[k + 1]])
    assert torch.equal(layer.flat, flat[entries])
    assert torch.equal(layer.flat.grad, flat.grad[entries])
    assert torch.equal(layer.initial * 2, layer.flat)
    assert layer.ranks == (1, 2, 1, 2, 1)


@pytest.mark.parametrize("kept", [[[0]], [[0], [], [0]], [[0], [3], [0]], [[1, 0], [0], [0]], [[0, 0], [0], [0]]])
def test_indices_that_a_bond_does_not_have_are_refused(kept):
    with pytest.raises(RankError, match="ascending indices for each of the inner bonds"):
        TTLinear(16, 6, tensor_rank=2, shape=[4, 4, 3, 2]).keep_indices(kept)


# training


@pytest.mark.parametrize("scheme", ["residual", "zero", "gaussian", "paper-mean"])
def test_training_ends_within_the_budget_and_removal_changes_nothing(config_class, scheme):
    model = branches(config_class, scheme)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    allocator = RankAllocator(model, total_steps=20, budget=500, interval=3)
    full = stored(model)
    teach(model, allocator, optimizer, high_rank_teacher(), 20)
    assert stored(model) == full
    model.eval()
    x = torch.randn(50, 32)
    before = model(x)
    allocator.remove(optimizer)
    assert stored(model) == allocator.parameters <= allocator.budget == 500
    assert torch.allclose(model(x), before, rtol=0, atol=1e-6)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in trainable(model)}


def test_the_budget_goes_to_the_layer_that_has_something_to_learn(config_class):
    model = branches(config_class, rank=6)
    optimizer = torch.optim.Adam(trainable(model), lr=1e-2)
    allocator = RankAllocator(model, total_steps=100, target_rank=2)
    teach(model, allocator, optimizer, high_rank_teacher(), 100)
    total = {module: sum(sum(ranks) for ranks in own.values()) for module, own in allocator.ranks.items()}
    lowest = 2 * 3  # three bonds of rank 1 in two trains
    assert total["b"] > 2 * lowest
    assert total["a"] + total["c"] <= 2 * lowest + 2


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
        lambda p: torch.optim.Adagrad(p, lr=1e-2),
    ],
)
def test_the_optimiser_goes_on_as_if_nothing_had_been_removed(config_class, make):
    model = branches(config_class).double()
    optimizer = make(trainable(model))
    allocator = RankAllocator(model, total_steps=30, budget=500, interval=2, settled_after=0.4)
    teacher = high_rank_teacher().double()
    torch.set_default_dtype(torch.float64)
    try:
        teach(model, allocator, optimizer, teacher, 12)
        assert allocator.settled
        held = copy.deepcopy((model, optimizer, allocator))
        kept = allocator._bonds.kept(allocator._on)
        allocator.remove(optimizer)
        teach(model, allocator, optimizer, teacher, 8, seed=1)
        teach(*[held[i] for i in (0, 2, 1)], teacher, 8, seed=1)  # goes on with what is off at zero
    finally:
        torch.set_default_dtype(torch.float32)
    cut, whole = (dict(m.named_modules()) for m in (model, held[0]))
    names = [name for name, module in cut.items() if isinstance(module, TTLinear)]
    for name, own in zip(names, kept, strict=True):
        small, large = cut[name].flat, whole[name].flat
        entries = whole[name].keep_indices(own)
        assert torch.allclose(small, whole[name].flat, rtol=1e-9, atol=1e-12)
        for key, value in optimizer.state[small].items():
            expected = held[1].state[large][key]
            assert torch.allclose(value, expected[entries] if expected.shape == large.shape else expected)


def test_the_state_of_the_optimiser_is_checked_before_anything_is_changed():
    model = branches()
    optimizer = torch.optim.LBFGS(trainable(model))
    x = torch.randn(4, 32)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    allocator = RankAllocator(model, total_steps=10, budget=500)
    before = stored(model)
    with pytest.raises(ShapeError, match=r"LBFGS keeps .* cannot be cut down with it: use an optimiser"):
        allocator.remove(optimizer)
    assert stored(model) == before
    assert allocator.parameters == before


def test_a_training_that_stops_early_ends_within_the_budget_too():
    model = branches()
    allocator = RankAllocator(model, total_steps=1000, budget=500)
    teach(model, allocator, torch.optim.Adam(trainable(model), lr=1e-2), high_rank_teacher(), 3)
    allocator.remove()
    assert stored(model) <= 500


def test_what_is_switched_off_can_come_back():
    model = branches(rank=4)
    allocator = RankAllocator(model, total_steps=40, budget=500, interval=1, warmup=0.05, settled_after=0.9)
    optimizer = torch.optim.Adam(trainable(model), lr=1e-2)
    seen = []
    target = high_rank_teacher()
    for step in range(36):
        teach(model, allocator, optimizer, target, 1, seed=step)
        seen.append(allocator._on.clone())
    returned = [bool((now & ~then).any()) for then, now in pairwise(seen)]
    assert any(returned)


def test_what_is_allowed_falls_with_the_cube_of_the_time_left():
    allocator = RankAllocator(branches(), total_steps=100, budget=500, warmup=0.1, settled_after=0.61)
    full = allocator.parameters
    assert [allocator.allowed(step) for step in (0, 10, 11)] == [full, full, full]
    assert allocator.allowed(36) == 500 + (full - 500) // 8
    assert [allocator.allowed(step) for step in (61, 100)] == [500, 500]


def test_gradients_that_are_not_numbers_leave_no_trace():
    model = branches()
    allocator = RankAllocator(model, total_steps=100, budget=500)
    for parameter in trainable(model):
        parameter.grad = torch.full_like(parameter, float("nan"))
    allocator.step()
    assert not allocator._importance.any()


def test_a_step_without_gradients_is_refused():
    with pytest.raises(RuntimeError, match=r"after backward\(\) and optimizer.step\(\)"):
        RankAllocator(branches(), total_steps=10, budget=500).step()


# what cannot be


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({}, ValueError, "either budget or target_rank"),
        ({"budget": 500, "target_rank": 2}, ValueError, "either budget or target_rank"),
        ({"budget": 10}, RankError, "a budget of 10 parameters cannot be met"),
        ({"budget": 10**6}, RankError, "a larger tensor_rank"),
        ({"target_rank": 5}, RankError, "cannot be met"),
        ({"budget": "500"}, ValueError, "budget"),
        ({"budget": 500, "interval": 0}, ValueError, "interval"),
        ({"budget": 500, "warmup": 1.0}, ValueError, "warmup"),
        ({"budget": 500, "warmup": 0.5, "settled_after": 0.4}, ValueError, "settled_after"),
        ({"budget": 500, "smoothing": float("nan")}, ValueError, "smoothing"),
        ({"budget": 500, "total_steps": 0}, ValueError, "total_steps"),
        ({"budget": 500, "adapter_name": "other"}, TypeError, "'other' is no adapter of this library"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_, error, message):
    with pytest.raises(error, match=message):
        RankAllocator(branches(), **{"total_steps": 10, **settings_})


def test_other_adapters_are_refused():
    model = get_peft_model(Branches(), LoraConfig(target_modules=["a"]))
    with pytest.raises(TypeError, match="it has {'default': 'LoraConfig'}"):
        RankAllocator(model, total_steps=10, budget=500)


def test_sharded_cores_are_refused():
    model = branches()
    train = next(module for module in model.modules() if isinstance(module, TTLinear))
    train.flat = nn.Parameter(torch.empty(0))
    with pytest.raises(TypeError, match="A of a holds its cores as Parameter of 0 entries"):
        RankAllocator(model, total_steps=10, budget=500)


# afterwards


def adapted_bert(config_class, **extra):
    config = config_class(tensor_rank=4, task_type="SEQ_CLS", seed=0, **extra)
    model = shake(get_peft_model(bert(), config)).train()
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3)
    allocator = RankAllocator(model, total_steps=6, target_rank=2, interval=2)
    for _ in range(6):
        model(tokens(), labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
        allocator.step()
        optimizer.zero_grad()
    allocator.remove(optimizer)
    return model.eval()


@pytest.mark.parametrize("scheme", ["residual", "zero"])
def test_saved_and_loaded_it_gives_the_same_logits(config_class, scheme, tmp_path):
    # the pattern of the user's own ends with the ranks that were found
    pattern = {"output.dense": 5} if config_class is LorettaAdpConfig else {"query": 5}
    model = adapted_bert(config_class, init_weights=scheme, tensor_rank_pattern=pattern)
    model.save_pretrained(tmp_path)
    assert len({str(ranks) for ranks in model.peft_config["default"].tensor_rank_pattern.values()}) > 1
    loaded = PeftModel.from_pretrained(bert(), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


def test_a_name_that_ends_another_keeps_its_own_ranks(tmp_path):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 16)))

    model = get_peft_model(net(), LorettaRepConfig(r=4, tensor_rank=4, target_modules=["0"], seed=0))
    allocator = RankAllocator(model, total_steps=1, target_rank=2, warmup=0.0)
    model(torch.ones(1, 16)).sum().backward()
    shake(model)
    for parameter in trainable(model.base_model.model[0]):
        parameter.grad.zero_()  # all goes to the other
    allocator.step()
    allocator.remove()
    assert allocator.ranks["0"] != allocator.ranks["1.0"]
    model.save_pretrained(tmp_path)
    x = torch.randn(3, 16)
    assert torch.equal(PeftModel.from_pretrained(net(), tmp_path)(x), model.eval()(x))


def test_an_adapted_adapter_merges_and_becomes_lora(tmp_path):
    model = adapted_bert(LorettaRepConfig)
    expected = model(tokens()).logits
    save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(bert(), tmp_path)
    assert torch.allclose(lora(tokens()).logits, expected, atol=1e-5)
    merged = model.merge_and_unload()
    assert torch.allclose(merged(tokens()).logits, expected, atol=1e-5)


# the Trainer


def trainer_of(folder, callbacks, config_class=LorettaRepConfig, **settings_):
    config = config_class(tensor_rank=4, task_type="SEQ_CLS", seed=0)
    generator = torch.Generator().manual_seed(3)
    rows = [
        {"input_ids": torch.randint(0, 50, (6,), generator=generator).tolist(), "labels": index % 3}
        for index in range(24)
    ]
    torch.manual_seed(5)
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=12, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        save_steps=5, logging_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, seed=0,
        gradient_accumulation_steps=2, **settings_,
    )  # fmt: skip
    model = get_peft_model(bert(), config)
    return Trainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks)


def callback():
    return RankBudgetCallback(target_rank=2, interval=2)


@pytest.mark.parametrize("restore", [False, True])
def test_a_resumed_trainer_goes_on_identically(config_class, restore, tmp_path):
    whole = trainer_of(tmp_path / "whole", [callback()], config_class)
    whole.train()
    state = json.loads((tmp_path / "whole/checkpoint-5/trainer_state.json").read_text())
    assert state["stateful_callbacks"]["RankBudgetCallback"]["attributes"]["allocation"]["steps"] == 5
    resumed = trainer_of(
        tmp_path / "resumed", [callback()], config_class, restore_callback_states_from_checkpoint=restore
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-5"))
    ours, theirs = (dict(t.model.named_parameters()) for t in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ours_config(resumed) == ours_config(whole) != {}
    assert len(resumed.optimizer.param_groups[0]["params"]) == len(whole.optimizer.param_groups[0]["params"])


def ours_config(trainer):
    return trainer.model.peft_config["default"].tensor_rank_pattern


def test_a_trainer_ends_within_the_budget_and_saves_the_small_adapter(tmp_path):
    trainer = trainer_of(tmp_path, [own := callback()])
    before = stored(trainer.model)
    trainer.train()
    assert stored(trainer.model) <= own.allocator.budget < before
    trainer.save_model(str(tmp_path / "final"))
    loaded = PeftModel.from_pretrained(bert(), tmp_path / "final")
    assert torch.equal(loaded(tokens()).logits, trainer.model.eval()(tokens()).logits)


def test_a_checkpoint_without_the_allocation_is_refused(tmp_path):
    trainer_of(tmp_path, []).train()
    with pytest.raises(ValueError, match="step 5 was written without a RankBudgetCallback"):
        trainer_of(tmp_path, [callback()]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_the_state_of_another_adapter_is_refused():
    state = RankAllocator(branches(rank=4), total_steps=10, budget=500).state_dict()
    with pytest.raises(RankError, match=r"the state is of an adapter with \d+ bond indices, this one has"):
        RankAllocator(branches(rank=5), total_steps=10, budget=500).load_state_dict(state)


# many processes


def _choose_from_different_gradients(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = branches()
    allocator = RankAllocator(model, total_steps=4, budget=500, warmup=0.0, interval=1)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(4):
        for parameter in trainable(model):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(0.1 * parameter.grad)
        allocator.step()
    Path(folder, f"{rank}.json").write_text(json.dumps(allocator.state_dict()["on"]))
    torch.distributed.destroy_process_group()


def test_two_processes_choose_alike_whatever_they_saw(tmp_path):
    multiprocessing.spawn(_choose_from_different_gradients, (str(tmp_path),), nprocs=2)
    on = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert on[0] == on[1]
    assert 0 in on[0]
