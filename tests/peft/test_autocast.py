"""Inside torch.autocast: what nn.Linear does there, gradients of the dtype of their parameters, and exact starts."""

import copy
import functools
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.peft.tiny import bert, checkpointed, llama, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, TtLoraConfig
from ttlib_peft.methods.loretta_adp import LorettaAdpLinear
from ttlib_peft.skinny_product import add_product

METHODS = {
    "rep": (LorettaRepConfig, {}),
    "adp": (LorettaAdpConfig, {"non_linearity": "gelu"}),  # relu's derivative jumps
    "adp before": (LorettaAdpConfig, {"non_linearity": "gelu", "placement": "input"}),
    "tt-lora": (TtLoraConfig, {}),
    "meta-tt": (MetaTTConfig, {}),
    "head": (LorettaRepConfig, {"tensorize_modules": ["head"]}),
}
# of the numbers and of the gradients, as fractions of their norms
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.003}
FEW, MANY = 3, 100  # samples of four tokens: below and above what autograd's own operations are for


class Two(nn.Module):
    """Linear layers without a norm, whose kernels on the CPU take few pairs of dtypes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(32, 24), nn.Linear(24, 20)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


# Every pair of values at every commit, every combination in `make test-all`.
PAIRWISE = [
    (torch.float32, "residual", FEW, True),
    (torch.float32, "zero", MANY, False),
    (torch.bfloat16, "residual", MANY, True),
    (torch.bfloat16, "zero", FEW, False),
    (torch.float32, "zero", MANY, True),
    (torch.bfloat16, "residual", FEW, False),
]
STATES = [
    state if state in PAIRWISE else pytest.param(*state, marks=pytest.mark.slow)
    for state in product((torch.float32, torch.bfloat16), ("residual", "zero"), (FEW, MANY), (True, False))
]


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture(params=TOLERANCE, ids=["bfloat16", "float16"])
def dtype(request):
    return request.param


def build(method, base_dtype=torch.float32, scale=0.1, **options):
    config_class, own = METHODS[method]
    config = config_class(target_modules=["body"], seed=0, **own, **options)
    return shake(get_peft_model(Two().to(base_dtype), config), scale)


def draw(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)


def run(model, x, autocast=None):
    """Return the result and the gradients of x and of everything trained."""
    x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = model(x)
    y.backward(draw(*y.shape, dtype=torch.bfloat16).to(y))
    gradients = [x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]
    model.zero_grad()
    return y.detach(), gradients


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize(("base_dtype", "scheme", "samples", "training"), STATES)
def test_results_and_gradients_are_those_of_float64_to_its_precision(
    method, dtype, base_dtype, scheme, samples, training
):
    model = build(method, base_dtype, init_weights=scheme).train(training)
    x = draw(samples, 4, 32, dtype=base_dtype)
    expected = run(copy.deepcopy(model).double(), x.double())
    y, gradients = run(model, x, dtype)
    assert y.dtype == dtype
    assert [g.dtype for g in gradients] == [base_dtype, *(p.dtype for p in model.parameters() if p.requires_grad)]
    tolerance = max(TOLERANCE[dtype], TOLERANCE.get(base_dtype, 0))
    assert distance(y, expected[0]) < tolerance
    assert max(map(distance, gradients, expected[1])) < tolerance
    for mode in (torch.no_grad, torch.inference_mode):
        with torch.autocast("cpu", dtype), mode():
            assert distance(model(x), y) < tolerance


def test_the_start_changes_nothing(method, dtype):
    model, x = build(method, scale=0), draw(MANY, 4, 32)
    with torch.autocast("cpu", dtype):
        assert torch.equal(model(x), Two()(x))


@pytest.mark.parametrize("scheme", ["residual", "zero"])
def test_a_change_far_below_half_precision_keeps_its_leading_digits(method, dtype, scheme):
    """A first optimiser step moves what stands in a bottleneck by less than half precision can tell apart."""
    model = build(method, init_weights=scheme, scale=1e-4).base_model.model
    layer = model.head if method == "head" else model.body
    x = draw(MANY, layer.out_features if method == "adp" else layer.in_features)

    def change(layer, x):
        if isinstance(layer, LorettaAdpLinear):
            return layer._adapt("default", x) - x
        return layer._adapt_output("default", x, x.new_zeros(MANY, layer.out_features))

    with torch.no_grad(), torch.autocast("cpu", dtype):
        ours = change(layer, x)
    assert distance(ours, change(copy.deepcopy(layer).double(), x.double())) < TOLERANCE[dtype]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_backward_is_that_of_its_forward_whatever_surrounds_it(method, autocast):
    model = build(method).base_model.model
    layer = model.head if method == "head" else model.body
    # no frozen layer behind it, whose own derivative autocast would round
    adapt = functools.partial(layer._adapt_input, "default") if method == "adp before" else layer
    x = draw(MANY, 4, layer.in_features)
    trained = [p for p in layer.parameters() if p.requires_grad]
    gradients = []
    for surrounding in (None, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            y = adapt(x)
        with torch.autocast("cpu", surrounding, enabled=surrounding is not None):
            gradients.append(torch.autograd.grad(y, trained, torch.cos(y.detach())))
    for others in gradients[1:]:
        assert all(map(torch.equal, others, gradients[0]))


@pytest.mark.parametrize("samples", [FEW, MANY])
def test_second_derivatives(method, dtype, samples):
    model, x = build(method), draw(samples, 4, 32)

    def of_the_gradient(model, x, autocast=None):
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            y = model(x)
        (gradient,) = torch.autograd.grad(y, x, draw(*y.shape, dtype=torch.bfloat16).to(y), create_graph=True)
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(gradient.square().sum(), trained, allow_unused=True)

    expected = of_the_gradient(copy.deepcopy(model).double(), x.double())
    for ours, exact in zip(of_the_gradient(model, x, dtype), expected, strict=True):
        if exact is not None:
            assert ours.dtype == torch.float32
            assert distance(ours, exact) < 2 * TOLERANCE[dtype]


def test_compiled(method):
    model, x = build(method), draw(MANY, 4, 32)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    y, gradients = run(model, x, torch.bfloat16)
    again, compiled_gradients = run(compiled, x, torch.bfloat16)
    assert again.dtype == y.dtype
    assert distance(again, y) < TOLERANCE[torch.bfloat16]
    assert max(map(distance, compiled_gradients, gradients)) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("method", ["rep", "tt-lora", "meta-tt", "head"])
def test_updates_are_calculated_as_outside(method, dtype):
    model = build(method).base_model.model
    layer = model.head if method == "head" else model.body
    weight = layer.base_layer.weight.clone()
    merged = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype, enabled=enabled):
            layer.merge()
            merged.append(layer.get_base_weight().clone())
            layer.unmerge()
        layer.base_layer.weight.data.copy_(weight)
    assert torch.equal(*merged)


def test_a_result_of_wider_range_stays_finite():
    """bfloat16 has numbers that float16 has not."""
    base = torch.full((3, 5), 1e30, dtype=torch.bfloat16)
    y = add_product(base, torch.ones(3, 2, dtype=torch.float16), torch.ones(2, 5, dtype=torch.float16), 1.0)
    assert torch.equal(y, base)


@pytest.mark.parametrize("make", [bert, llama])
def test_models_learn_and_checkpointing_changes_nothing(method, dtype, make):
    config_class, own = METHODS[method]
    own = {"tensorize_modules": ["pooler.dense" if make is bert else "lm_head"]} if method == "head" else own
    kind = "SEQ_CLS" if make is bert else "CAUSAL_LM"
    labels = torch.arange(60) % 3 if make is bert else tokens().repeat(20, 1)

    def losses(use_reentrant):
        config = config_class(task_type=kind, seed=0, train_norms=True, **own)
        model = get_peft_model(make(), config).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if use_reentrant is not None:
            checkpointed(model, use_reentrant=use_reentrant)
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(4):
            with torch.autocast("cpu", dtype):
                loss = model(tokens().repeat(20, 1), labels=labels).loss
            loss.backward()
            yield loss.item()
            optimiser.step()
            optimiser.zero_grad()

    plain = list(losses(None))
    assert plain[-1] < plain[0]
    assert list(losses(False)) == plain
    # reentrant checkpoints add gradients up in another order, in half precision: LoRA's differ as much
    assert list(losses(True)) == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("counting", [False, True])
def test_on_the_meta_device(method, counting):
    """Where counts of operations are made: as with nn.Linear there is no autocast to ask for."""
    model, x = build(method).to("meta"), draw(MANY, 4, 32).to("meta").requires_grad_()
    with FlopCounterMode(display=False) if counting else nullcontext():
        model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        assert model.eval()(x).is_meta
