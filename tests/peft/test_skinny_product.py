"""y = base + s x U V and the bottleneck against numpy and against autograd through ordinary operations."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ttlib_peft.skinny_product as skinny_product_module
from ttlib_peft import TTLinear
from ttlib_peft.assembly import Contracted, Factors, Start, Train, assemble, pack, plain_factors, program
from ttlib_peft.bottleneck import Bottleneck, bottleneck
from ttlib_peft.skinny_product import skinny_product

sizes = st.integers(1, 9)


@pytest.fixture(params=[0, skinny_product_module.FEW_TOKENS], ids=["own operations", "autograd's operations"])
def way(request, monkeypatch):
    """Both ways of calculating, whatever the number of tokens."""
    monkeypatch.setattr(skinny_product_module, "FEW_TOKENS", request.param)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def factors(rows, rank, cols, *, started, dtype=torch.float64, moving=None):
    """Factors as functions of what moves: U^T and V, or dU^T and dV."""
    ut, v = moving or (draw(rank, rows, dtype=dtype), draw(rank, cols, dtype=dtype, seed=1))
    if not started:
        return Factors(ut, v)
    u0t, v0 = draw(rank, rows, dtype=dtype, seed=2), draw(rank, cols, dtype=dtype, seed=3)
    return Factors(torch.cat((ut, u0t)), torch.cat((v0 + v, v)), v0)


def dense(own):
    return own.pt.detach().double().numpy().T @ own.q.detach().double().numpy()


@given(sizes, sizes, sizes, st.booleans(), st.sampled_from(["none", "bias", "result"]), st.sampled_from([1.0, -2.5]))
def test_it_is_the_dense_product(rows, rank, cols, started, kind, scale):
    own = factors(rows, rank, cols, started=started)
    x = draw(2, 3, rows)
    base = {"none": None, "bias": draw(cols, seed=5), "result": draw(2, 3, cols, seed=5)}[kind]
    expected = scale * (x.numpy() @ dense(own)) + (0 if base is None else base.numpy())
    for again in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        np.testing.assert_allclose(skinny_product(again, own, base=base, scale=scale), expected, rtol=1e-11, atol=1e-11)
        with torch.no_grad():
            np.testing.assert_allclose(
                skinny_product(again, own, base=base, scale=scale), expected, rtol=1e-11, atol=1e-11
            )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("base_dtype", TOLERANCE)
@pytest.mark.parametrize("started", [False, True])
def test_the_result_and_the_gradients_have_the_dtypes_of_what_they_belong_to(dtype, base_dtype, started, way):
    own = factors(6, 2, 5, started=started, dtype=dtype)
    own = own._replace(pt=own.pt.requires_grad_(), q=own.q.requires_grad_())
    x, base = (draw(4, n, dtype=base_dtype, seed=n).requires_grad_() for n in (6, 5))
    y = skinny_product(x, own, base=base, scale=0.5, cast=True)
    assert y.dtype == base_dtype
    tolerance = max(TOLERANCE[dtype], TOLERANCE[base_dtype])
    expected = 0.5 * x.detach().double().numpy() @ dense(own) + base.detach().double().numpy()
    np.testing.assert_allclose(y.detach().double(), expected, rtol=tolerance, atol=4 * tolerance)
    y.sum().backward()
    assert [t.grad.dtype for t in (x, base, own.pt, own.q)] == [base_dtype, base_dtype, dtype, dtype]


def test_a_sum_in_less_precision_is_rounded_once():
    own = factors(64, 3, 32, started=True, dtype=torch.float32)
    x, base = draw(300, 64, dtype=torch.bfloat16), draw(300, 32, dtype=torch.bfloat16, seed=4)
    exact = base.double() + x.double() @ torch.from_numpy(dense(own))
    wrong = (skinny_product(x, own, base=base, cast=True) != exact.to(torch.bfloat16)).float().mean()
    assert wrong < 0.01  # where float32 falls on the other side of a tie


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("kind", ["none", "bias", "result"])
def test_derivatives_of_first_and_second_order(started, kind, way):
    x, ut, v = (draw(*shape, seed=i).requires_grad_() for i, shape in enumerate([(2, 3, 4), (2, 4), (2, 5)]))
    base = {"none": [], "bias": [draw(5, seed=7)], "result": [draw(2, 3, 5, seed=7)]}[kind]

    def run(x, ut, v, *base):
        own = factors(4, 2, 5, started=started, moving=(ut, v))
        return skinny_product(x, own, base=base[0] if base else None, scale=1.5)

    arguments = (x, ut, v, *(b.requires_grad_() for b in base))
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


def test_frozen_factors_pass_the_gradient_on_also_twice(way):
    own = factors(4, 2, 5, started=True)
    x = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: skinny_product(x, own), (x,))
    assert torch.autograd.gradgradcheck(lambda x: skinny_product(x, own), (x,))


@contextlib.contextmanager
def saved_for_backward(*given):
    """Yield a dict that gathers the bytes of every storage kept for backward, those of *given* left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in given if tensor is not None}
    kept = {}

    def pack_hook(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("started", [False, True])
def test_only_k_numbers_a_token_are_kept_beside_the_input(started):
    own = factors(64, 5, 48, started=started, dtype=torch.float32)
    own = own._replace(pt=own.pt.requires_grad_(), q=own.q.requires_grad_())
    x = draw(1000, 64, dtype=torch.bfloat16).requires_grad_()
    with saved_for_backward(x, *own) as kept:
        y = skinny_product(x, own, base=draw(1000, 48, dtype=torch.bfloat16), cast=True)
    assert sum(kept.values()) == 1000 * 5 * 4
    y.sum().backward()


@pytest.mark.parametrize("started", [False, True])
def test_autocast(started, way):
    own = factors(16, 3, 8, started=started, dtype=torch.float32)
    own = own._replace(pt=own.pt.requires_grad_(), q=own.q.requires_grad_())
    x = draw(5, 16, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = skinny_product(x, own)
    assert y.dtype == torch.bfloat16
    np.testing.assert_allclose(y.detach().double(), x.detach().double().numpy() @ dense(own), rtol=0.05, atol=0.3)
    y.sum().backward()
    assert x.grad.dtype == own.pt.grad.dtype == own.q.grad.dtype == torch.float32


def test_no_tokens_and_one_vector(way):
    layer = TTLinear(6, 4, tensor_rank=2)
    assert layer(torch.ones(0, 6)).shape == (0, 4)
    layer(torch.ones(0, 6)).sum().backward()
    assert not layer.flat.grad.any()
    torch.testing.assert_close(layer(torch.ones(6)), layer(torch.ones(1, 6))[0])


def test_two_dtypes_are_refused_as_torch_refuses_them():
    with pytest.raises(RuntimeError, match="dtype"):
        TTLinear(6, 4, tensor_rank=2)(torch.ones(2, 6, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch itself, in forward mode
@pytest.mark.parametrize("started", [False, True])
def test_torch_func_and_forward_mode(started):
    layer = TTLinear(6, 4, tensor_rank=2, dtype=torch.float64)
    if started:
        layer.keep_start()
        layer.flat.data += 0.1
    x, tangent = draw(3, 6), draw(3, 6, seed=1)

    def run(flat, x):
        return torch.func.functional_call(layer, {"flat": flat}, (x,))

    flat = layer.flat.detach()
    jacobian = torch.func.jacrev(run, argnums=(0, 1))(flat, x)
    expected = torch.autograd.functional.jacobian(run, (flat, x))
    for ours, theirs in zip(jacobian, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    batched = torch.func.vmap(run, in_dims=(0, None))(torch.stack([flat, 2 * flat]), x)
    torch.testing.assert_close(batched[0], layer(x).detach())
    with torch.autograd.forward_ad.dual_level():
        dual = layer(torch.autograd.forward_ad.make_dual(x, tangent))
        moved = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(moved, tangent @ layer.to_dense())


ACTIVATIONS = [nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Identity()]


def bottleneck_of(tensors, *, started):
    ut_down, v_down, down_bias, ut_up, v_up, up_bias = tensors
    down = factors(4, 2, 3, started=started, moving=(ut_down, v_down))
    up = factors(3, 2, 4, started=started, moving=(ut_up, v_up))
    return Bottleneck(down, down_bias, up, up_bias)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("started", [False, True])
def test_the_bottleneck_is_its_formula_and_has_its_derivatives(activation, started):
    shapes = [(2, 4), (2, 3), (3,), (2, 3), (2, 4), (4,)]
    tensors = [0.7 * draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    x, h = draw(2, 3, 4, seed=20).requires_grad_(), draw(2, 3, 4, seed=21).requires_grad_()

    def run(x, h, *tensors):
        return bottleneck(x, h, bottleneck_of(tensors, started=started), activation, scale=0.5)

    own = bottleneck_of(tensors, started=started)
    change = [torch.from_numpy(dense(factors)) for factors in (own.down, own.up)]
    start = [factors.pt[2:].detach().T @ factors.v0 if started else torch.zeros(()) for factors in (own.down, own.up)]
    down, up = (a + b for a, b in zip(change, start, strict=True))
    f = activation(x @ down + own.down_bias) @ up + own.up_bias
    f0 = activation(x @ start[0]) @ start[1] if started else 0
    torch.testing.assert_close(run(x, h, *tensors), h + 0.5 * (f - f0))
    assert torch.autograd.gradcheck(run, (x, h, *tensors))
    assert torch.autograd.gradgradcheck(run, (x, h, *tensors))


def test_the_bottleneck_keeps_no_bottleneck():
    """Of a width of 64, backward needs the 2 k + k numbers a token that it is made of."""
    torch.manual_seed(0)
    down, up = TTLinear(96, 64, tensor_rank=5), TTLinear(64, 96, tensor_rank=5)
    for train in (down, up):
        train.keep_start()
    own = [train.keeper.factors((train,), training=True) for train in (down, up)]
    h = draw(1000, 96, dtype=torch.float32).requires_grad_()
    with saved_for_backward(h, *own[0], *own[1], down.bias, up.bias) as kept:
        bottleneck(h, h, Bottleneck(own[0], down.bias, own[1], up.bias), nn.GELU(), scale=1.0)
    assert sum(kept.values()) == 1000 * 15 * 4


shapes = st.lists(st.integers(1, 4), min_size=2, max_size=5)


def train_of(modes, split, rank):
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return Train(tuple((a, n, b) for n, a, b in zip(modes, ranks[:-1], ranks[1:], strict=True)), split)


@given(shapes, shapes, st.integers(1, 3), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(1, 3))
def test_contracting_many_is_contracting_each(first, second, rank, inner, product, started, layers):
    """Numbers, gradients and gradients of gradients, for one train and for products of two."""
    layout = (train_of([*first, inner], len(first), rank),)
    if product:
        layout += (train_of([inner, *second], 1, rank),)
    flats = [
        [draw(sum(t.sizes), seed=10 * i + j).requires_grad_() for j, t in enumerate(layout)] for i in range(layers)
    ]
    starts = [[draw(flat.numel(), seed=100 + i) for i, flat in enumerate(own)] for own in flats] if started else None
    start = Start(layout, starts) if started else None
    every = [flat for own in flats for flat in own]
    ours = assemble(Contracted(layout, pack(flats), start), every)
    plain = [plain_factors(layout, own, starts[i] if started else None) for i, own in enumerate(flats)]
    weights = [draw(*factor.shape, seed=7) for factor in plain[0][:2]]

    def losses(all_factors):
        return sum((w * part).sum() ** 2 for own in all_factors for w, part in zip(weights, own[:2], strict=True))

    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close([f for f in one if f is not None], [f for f in other if f is not None])
    gradients = [torch.autograd.grad(losses(each), every, create_graph=True) for each in (ours, plain)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    second_order = [torch.autograd.grad(sum(g.square().sum() for g in each), every) for each in gradients]
    for a, b in zip(*second_order, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_a_contraction_is_planned_in_integers_and_remembered():
    layout = (train_of([8, 8, 12, 8, 8], 3, 5),)
    assert program(layout) is program(layout)
    assert (program(layout).rows, program(layout).rank, program(layout).cols) == (768, 5, 64)
    assert len(program(layout).steps) == 3
