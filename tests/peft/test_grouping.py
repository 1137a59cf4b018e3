"""Factors contracted together: the same gradients as contracted one by one, whatever a training loop does."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.peft.tiny import bert, llama, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, TTLinear, group_factors
from ttlib_peft.assembly import Assembly
from ttlib_peft.grouping import FactorGroup

METHODS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}
SCHEMES = ["residual", "zero", "gaussian", "paper-mean"]


class Tower(nn.Module):
    """Square layers one after another; `use` says which, and how often."""

    def __init__(self, depth=5, width=12):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.use = list(range(depth))
        self.checkpointed = ()
        self.reentrant = False

    def forward(self, x):
        for i in self.use:
            step = self.layers[i]
            x = torch.tanh(checkpoint(step, x, use_reentrant=self.reentrant) if i in self.checkpointed else step(x))
        return x


def tower(*, group, config_class=LorettaRepConfig, scheme="residual", moved=True, dtype=torch.float64, **arguments):
    torch.manual_seed(0)
    size = {"r": 4} if config_class is LorettaRepConfig else {"bottleneck": 6}
    config = config_class(
        tensor_rank=3, target_modules=r".*layers\.\d", init_weights=scheme, seed=1, group_factors=group, **size
    )
    model = get_peft_model(Tower(**arguments).to(dtype), config).train()
    return shake(model) if moved else model


def inner(model):
    return model.base_model.model


def batch(seed=0, dtype=torch.float64):
    return torch.randn(7, 12, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if "loretta" in name}


def step(model, seed=0):
    x = batch(seed)
    loss = model(x).square().sum()
    loss.backward()
    return loss.detach(), x.grad


def same(scenario, *, exact=False, **arguments):
    """Run a scenario on a grouped and on an ungrouped model: outputs and gradients must agree."""
    results = []
    for group in (True, False):
        model = tower(group=group, **arguments)
        step(model)  # the first pass makes layers known to the group
        model.zero_grad()
        results.append((scenario(model), gradients(model)))
    (ours, our_gradients), (theirs, their_gradients) = results
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(ours, theirs, **tolerance)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        if their_gradients[name] is None:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-9, atol=1e-11)
    assert any(gradient is not None for gradient in our_gradients.values())


def contractions(monkeypatch):
    """Count how many layers each contraction with a graph serves."""
    served = []
    forward = Assembly.forward

    def counting(ctx, contracted, *rest):
        served.append(len(contracted.pt))
        return forward(ctx, contracted, *rest)

    monkeypatch.setattr(Assembly, "forward", staticmethod(counting))
    return served


@pytest.mark.parametrize("few_tokens", [0, 256])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", METHODS)
def test_one_step(method, scheme, few_tokens, monkeypatch):
    monkeypatch.setattr("ttlib_peft.skinny_product.FEW_TOKENS", few_tokens)
    same(step, config_class=METHODS[method], scheme=scheme)


@pytest.mark.parametrize("method", METHODS)
def test_at_the_start_the_output_is_that_of_the_base_model_bit_for_bit(method):
    model = tower(group=True, config_class=METHODS[method], moved=False)
    with model.disable_adapter():
        expected = model(batch())
    for _ in range(3):
        assert torch.equal(model(batch()), expected)


def test_all_layers_are_contracted_once_a_step(monkeypatch):
    model = tower(group=True)
    step(model)
    served = contractions(monkeypatch)
    for _ in range(3):
        step(model)
    assert served == [5, 5, 5]


def test_without_grouping_each_layer_is_contracted_alone(monkeypatch):
    model = tower(group=False)
    served = contractions(monkeypatch)
    step(model)
    assert served == [1] * 5


def test_one_layer_alone_is_not_grouped(monkeypatch):
    model = tower(group=True, depth=1)
    served = contractions(monkeypatch)
    for _ in range(4):
        step(model)
    assert served == [1] * 4


def test_layers_of_several_shapes_are_grouped_by_shape(monkeypatch):
    model = get_peft_model(llama(), LorettaRepConfig(task_type="CAUSAL_LM")).train()  # v_proj is narrower than q_proj
    served = contractions(monkeypatch)
    for _ in range(2):
        model(tokens(), labels=tokens()).loss.backward()
    assert served == [1, 1, 1, 1, 2, 2]


def test_layers_that_stand_in_a_model_themselves(monkeypatch):
    torch.manual_seed(0)
    alone = nn.Sequential(*(TTLinear(12, 12, tensor_rank=3, dtype=torch.float64) for _ in range(4)))
    together = copy.deepcopy(alone)
    group_factors(together)
    served = contractions(monkeypatch)
    for model in (alone, together):
        for _ in range(2):
            model.zero_grad()
            model(batch()).square().sum().backward()
    assert served == [1] * 8 + [1] * 4 + [4]
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_gradient_accumulation():
    same(lambda model: [step(model, seed) for seed in range(3)])


def test_two_passes_before_one_backward():
    def scenario(model):
        loss = model(batch(1)).sum() + model(batch(2)).square().sum()
        loss.backward()
        return loss.detach()

    same(scenario)


def test_two_passes_and_then_two_backwards():
    def scenario(model):
        losses = [model(batch(seed)).square().sum() for seed in range(2)]
        for loss in losses:
            loss.backward()

    same(scenario)


def test_a_kept_graph_can_be_used_twice():
    def scenario(model):
        loss = model(batch()).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()

    same(scenario)


def test_optimiser_steps():
    def scenario(model):
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        losses = []
        for seed in range(4):
            optimiser.zero_grad()
            losses.append(step(model, seed)[0])
            optimiser.step()
        return losses

    same(scenario)


def test_a_layer_used_twice_in_a_pass():
    def scenario(model):
        inner(model).use = [0, 1, 1, 2, 0, 3, 4]
        return step(model), step(model, 1)

    same(scenario)


def test_layers_that_are_not_used_get_no_gradient_and_leave_the_group(monkeypatch):
    def scenario(model):
        inner(model).use = [0, 2, 4]
        first = step(model)
        gradient = gradients(model)
        unused = [g for name, g in gradient.items() if ".layers.1." in name or ".layers.3." in name]
        assert unused == [None] * 4
        return first, step(model, 1)

    same(scenario)
    model = tower(group=True)
    step(model)
    inner(model).use = [0, 2, 4]
    step(model)
    served = contractions(monkeypatch)
    step(model)
    inner(model).use = [0, 1, 2, 3, 4]
    step(model)
    step(model)
    assert served == [3, 3, 1, 1, 5]


def test_different_layers_in_turn():
    def scenario(model):
        for use in ([0, 1, 2], [2, 3, 4], [1, 3], [0, 1, 2, 3, 4], [4]):
            inner(model).use = use
            step(model)

    same(scenario)


def test_frozen_members_get_no_gradient():
    def scenario(model):
        frozen = inner(model).layers[1]
        frozen.requires_grad_(False)
        first = step(model)
        frozen.loretta_rep_A.requires_grad_(True)  # and half of it again
        second = step(model, 1)
        assert gradients(model)["base_model.model.layers.1.loretta_rep_B.default.flat"] is None
        return first, second

    same(scenario)


def test_frozen_between_the_contraction_and_its_use():
    model = tower(group=True)
    step(model)
    model.zero_grad()
    layers = inner(model).layers
    layers[0](batch())  # contracts for all
    layers[1].requires_grad_(False)
    layers[1](batch()).sum().backward()
    assert all(p.grad is None for p in layers[1].parameters())


@pytest.mark.parametrize("write", ["in place", "data", "copy", "load", "replace"])
def test_parameters_that_change_between_the_contraction_and_its_use(write):
    def scenario(model):
        layers = inner(model).layers
        layers[0](batch())  # contracts for all
        trains = [adapter["default"] for adapter in (layers[1].loretta_rep_A, layers[1].loretta_rep_B)]
        with torch.no_grad():
            for train in trains:
                if write == "in place":
                    train.flat.mul_(2)
                elif write == "data":
                    train.flat.data.mul_(2)
                elif write == "copy":
                    train.flat.data = train.flat * 2
                elif write == "load":
                    train.load_state_dict({"flat": train.flat * 2, "initial": train.initial * 0.5})
                else:
                    train.flat = nn.Parameter(train.flat * 2)
        y = layers[1](batch())
        y.sum().backward()
        return y.detach()

    same(scenario)


@pytest.mark.parametrize("few_tokens", [0, 256])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("which", [(0,), (1, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("method", METHODS)
def test_checkpointing(method, which, reentrant, few_tokens, monkeypatch):
    monkeypatch.setattr("ttlib_peft.skinny_product.FEW_TOKENS", few_tokens)

    def scenario(model):
        inner(model).checkpointed, inner(model).reentrant = which, reentrant
        return step(model), step(model, 1)

    same(scenario, config_class=METHODS[method])


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_both_checkpointed_and_not_in_one_pass(reentrant):
    def scenario(model):
        layers = inner(model).layers
        for seed in range(2):
            x = batch(seed)
            for i in range(3):
                x = torch.tanh(layers[i](x))
                x = torch.tanh(checkpoint(layers[i], x, use_reentrant=reentrant))
            x.square().sum().backward()

    same(scenario)


def test_selective_checkpointing():
    from functools import partial

    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default, torch.ops.aten.bmm.default])

    def scenario(model):
        x = batch()
        y = checkpoint(inner(model), x, use_reentrant=False, context_fn=kept)
        y.square().sum().backward()
        return x.grad

    same(scenario)


def test_adapters_added_removed_and_switched():
    def scenario(model):
        torch.manual_seed(3)
        config = LorettaRepConfig(
            r=4, tensor_rank=3, target_modules=r".*layers\.[012]", seed=2,
            group_factors=model.peft_config["default"].group_factors,
        )  # fmt: skip
        model.add_adapter("second", config)
        results = []
        for active in ("second", ["default", "second"], "default"):
            model.base_model.set_adapter(active)
            results += [step(model, seed) for seed in range(2)]
        model.base_model.set_adapter(["default", "second"])
        model.delete_adapter("second")
        return [*results, step(model), step(model)]

    same(scenario)


def test_the_model_moves_to_another_dtype_in_between():
    def scenario(model):
        first = step(model)
        model.zero_grad()
        model.float()
        x = batch(dtype=torch.float32)
        model(x).square().sum().backward()
        model.double()
        model.zero_grad()
        return first, step(model), step(model, 1)

    same(scenario)


def test_training_after_evaluation_and_back():
    def scenario(model):
        results = [step(model)]
        model.eval()
        with torch.no_grad():
            results.append(model(batch()))
        results.append(step(model))  # with gradients in eval mode
        model.train()
        with torch.no_grad():
            results.append(model(batch()))
        return [*results, step(model, 1)]

    same(scenario)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_models_of_their_own(copied):
    def scenario(model):
        step(model)
        if copied == "deepcopy":
            other = copy.deepcopy(model)
        elif copied == "pickle":
            other = pickle.loads(pickle.dumps(model))  # noqa: S301
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        other.zero_grad()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.01)
        results = [step(other), step(other), step(model), step(other, 1)]
        groups = [
            {id(m.keeper.group) for m in net.modules() if hasattr(m, "keeper") and m.keeper.group is not None}
            for net in (model, other)
        ]
        assert len(groups[0] | groups[1]) == len(groups[0]) + len(groups[1])
        return results, [p.grad for n, p in other.named_parameters() if "loretta" in n]

    same(scenario)


def test_a_group_is_empty_in_a_copy_and_keeps_no_layer_alive():
    model = tower(group=True)
    step(model)
    step(model)
    layer = inner(model).layers[2]
    kept_alive = weakref.ref(layer.loretta_rep_A["default"])
    group = layer.loretta_rep_A["default"].keeper.group
    assert len(pickle.dumps(copy.deepcopy(group))) == len(pickle.dumps(FactorGroup()))
    inner(model).layers[2] = layer.base_layer
    del layer
    gc.collect()
    assert kept_alive() is None
    step(model)


def test_no_graph_is_leaked():
    def tensors():
        return sum(type(thing) in (torch.Tensor, nn.Parameter) for thing in gc.get_objects())

    model = tower(group=True)
    for _ in range(3):
        step(model)
    gc.collect()
    before = tensors()
    for _ in range(5):
        step(model)
    gc.collect()
    assert tensors() <= before


def test_second_derivatives():
    def scenario(model):
        x = batch()
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        return gradient.detach()

    same(scenario)


def test_data_loss_of_a_part_of_the_outputs():
    """Only what the loss depends on gets a gradient, as without grouping."""

    def scenario(model):
        layers = inner(model).layers
        outputs = [layer(batch()) for layer in layers]
        outputs[1].sum().backward()
        outputs[3].square().sum().backward()

    same(scenario)


@pytest.mark.parametrize("method", METHODS)
def test_real_models_train_alike(method):
    losses = []
    for group in (True, False):
        model = shake(get_peft_model(bert(), METHODS[method](task_type="SEQ_CLS", seed=0, group_factors=group))).eval()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(4):
            loss = model(tokens(), labels=torch.tensor([0, 1, 2])).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_old_configurations_load_with_the_default(tmp_path):
    import json

    from peft import PeftConfig

    LorettaRepConfig(target_modules=["query"]).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    stored = json.loads(path.read_text())
    assert stored.pop("group_factors") is True
    path.write_text(json.dumps(stored))
    assert PeftConfig.from_pretrained(tmp_path).group_factors is True


def _ddp_gradients(rank, store, results):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = tower(group=True)
    wrapped = DistributedDataParallel(model)
    for seed in range(3):
        model.zero_grad()
        wrapped(batch(2 * seed + rank).detach()).square().sum().backward()
    torch.save(gradients(model), f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    import torch.multiprocessing as mp

    mp.spawn(_ddp_gradients, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    model = tower(group=False)
    for seed in (4, 5):
        model(batch(seed).detach()).square().sum().backward()
    for rank in range(2):
        averaged = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(averaged[name], gradient / 2, rtol=1e-9, atol=1e-11)
