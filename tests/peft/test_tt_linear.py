"""TTLinear against the dense layer it stands for."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.peft.test_methods import ttlinear_dense
from ttlib_peft import TTLinear
from ttlib_peft.tt_linear import product_factors

sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(1, 9), st.booleans(), st.booleans())
def test_it_is_the_dense_layer_of_its_cores(rows, cols, rank, bias, started):
    """Row-major, (in, out), for any sizes: primes and ones included."""
    torch.manual_seed(0)
    layer = TTLinear(rows, cols, tensor_rank=rank, bias=bias, dtype=torch.float64)
    start = ttlinear_dense(layer, layer.cores) if started else 0.0
    if started:
        layer.keep_start()
        assert not layer.to_dense().any()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    dense = ttlinear_dense(layer, layer.cores) - start
    x = torch.randn(2, 3, rows, dtype=torch.float64)
    expected = x @ dense + (layer.bias if bias else 0.0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.to_dense(), dense, rtol=1e-9, atol=1e-9)


def test_the_cores_are_views_of_one_parameter():
    layer = TTLinear(768, 64, tensor_rank=5, shape=[8, 8, 12, 8, 8])
    assert [tuple(core.shape) for core in layer.cores] == layer.core_shapes
    assert layer.split == 3
    assert sum(p.numel() for p in layer.parameters()) == 780 + 64
    layer.cores[2].data.zero_()
    assert not layer.to_dense().any()


def test_it_is_a_tensor_train():
    layer = TTLinear(24, 30, tensor_rank=3, bias=False)
    tt = ttlib.TensorTrain(tuple(core.detach() for core in layer.cores))
    torch.testing.assert_close(tt.to_matrix(24, 30), layer.to_dense())


@pytest.mark.parametrize("started", [False, True])
def test_gradients(started):
    torch.manual_seed(0)
    layer = TTLinear(6, 4, tensor_rank=2, shape=[2, 3, 4], dtype=torch.float64)
    if started:
        layer.keep_start()
        layer.flat.data += torch.randn_like(layer.flat)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)

    def run(x, flat, bias):
        return torch.func.functional_call(layer, {"flat": flat, "bias": bias}, (x,))

    arguments = (x, layer.flat.detach().requires_grad_(), layer.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


@given(sizes, st.integers(1, 12), sizes, st.integers(1, 8), st.booleans())
def test_products_are_cut_at_the_narrowest_place(rows, inner, cols, rank, started):
    torch.manual_seed(0)
    a, b = (
        TTLinear(m, n, tensor_rank=rank, bias=False, dtype=torch.float64) for m, n in ((rows, inner), (inner, cols))
    )
    start = a.to_dense() @ b.to_dense() if started else 0.0
    if started:
        a.keep_start()
        b.keep_start()
    for layer in (a, b):
        layer.flat.data += torch.randn_like(layer.flat)
    p, q = product_factors(a, b)
    narrowest = min(a.ranks[a.split], b.ranks[b.split], inner)
    assert p.shape == (rows, narrowest * (1 + started))
    expected = ttlinear_dense(a, a.cores) @ ttlinear_dense(b, b.cores) - start
    torch.testing.assert_close(p @ q, expected, rtol=1e-9, atol=1e-9)


def test_entries_start_with_the_spread_of_nn_linear():
    squares = [TTLinear(64, 48, tensor_rank=4).to_dense().square().mean() for _ in range(300)]
    assert torch.stack(squares).mean().item() * 3 * 64 == pytest.approx(1, rel=0.25)


def test_explicit_ranks_are_taken_as_given_and_an_int_is_clipped():
    shape = [8, 8, 12, 8, 8]
    assert TTLinear(768, 64, tensor_rank=20, shape=shape).ranks == (1, 8, 20, 20, 8, 1)
    assert TTLinear(768, 64, tensor_rank=[20] * 4, shape=shape).ranks == (1, 20, 20, 20, 20, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 0, "out_features": 4, "tensor_rank": 2}, ttlib.ShapeError, "in_features.*got 0"),
        ({"in_features": 4, "out_features": 2.5, "tensor_rank": 2}, ttlib.ShapeError, "out_features.*got 2.5"),
        ({"in_features": 4, "out_features": 4, "tensor_rank": 0}, ttlib.RankError, "got 0"),
        (
            {"in_features": 4, "out_features": 4, "tensor_rank": 2, "shape": [4, 5]},
            ttlib.ShapeError,
            "holds 20 entries",
        ),
        (
            {"in_features": 4, "out_features": 4, "tensor_rank": 2, "shape": [8, 2]},
            ttlib.ShapeError,
            "no mode boundary",
        ),
        ({"in_features": 4, "out_features": 1, "tensor_rank": 2, "shape": [4]}, ttlib.ShapeError, "append a mode of 1"),
        ({"in_features": 4, "out_features": 4, "tensor_rank": [2, 2], "shape": [4, 4]}, ttlib.RankError, "2 entries"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        TTLinear(**arguments)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("started", [False, True])
def test_a_layer_of_high_rank_is_put_together_where_the_planner_says_so(bias, started, monkeypatch):
    layer = TTLinear(64, 64, tensor_rank=64, shape=[8, 8, 8, 8], bias=bias, dtype=torch.float64)
    if started:
        layer.keep_start()
        with torch.no_grad():
            layer.flat.add_(0.1 * torch.randn_like(layer.flat))
    x = torch.randn(300, 64, dtype=torch.float64)
    results = {}
    for strategy in ("reconstruct", "factors"):
        asked = []

        def planned(*args, strategy=strategy, asked=asked, **options):
            asked.append(options["tokens"])
            return dataclasses.replace(ttlib.plan(*args, **options), strategy=strategy)

        monkeypatch.setattr("ttlib_peft.tt_linear.plan", planned)
        layer.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        results[strategy] = y.detach(), layer.flat.grad.clone()
        assert asked == [300]
    for rebuilt, skinny in zip(*results.values(), strict=True):
        torch.testing.assert_close(rebuilt, skinny)
    dense = x @ layer.to_dense() + (layer.bias if bias else 0)
    torch.testing.assert_close(results["reconstruct"][0], dense.detach())


def test_a_layer_of_low_rank_asks_for_no_plan(monkeypatch):
    monkeypatch.setattr("ttlib_peft.tt_linear.plan", lambda *_, **__: pytest.fail("a plan was looked up"))
    TTLinear(64, 64, tensor_rank=5)(torch.ones(2, 64))
