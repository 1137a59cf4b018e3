"""Contraction plans against numpy.einsum, opt_einsum's PathInfo, and what torch in fact carries out and keeps."""

import dataclasses
import math

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import ttlib
from ttlib.planning.candidates import candidates
from ttlib.planning.execution import execute
from ttlib.planning.kernels import Copy, Product
from ttlib.planning.machine import BUILT_IN
from ttlib.planning.network import Network

STRATEGIES = ("reconstruct", "factors", "cores", "tree")
PROBLEMS = [
    ((8, 8, 12, 8, 8), 3, 5, 7),
    ((4, 6, 3, 5), 1, 3, 300),
    ((3, 4, 5, 4), 3, 2, 40),
    ((8, 8, 8, 8), 2, 16, 2),
    ((5, 7), 1, 3, 11),
]


@pytest.fixture(autouse=True)
def _built_in_model(monkeypatch, tmp_path):
    """Plan as a user without a calibration does."""
    monkeypatch.setenv("TTLIB_MACHINE", str(tmp_path / "none.json"))


@st.composite
def networks(draw, smallest=1, fewest_tokens=0):
    shape = tuple(draw(st.lists(st.integers(smallest, 5), min_size=2, max_size=6)))
    ranks = draw(st.lists(st.integers(smallest, 5), min_size=len(shape) - 1, max_size=len(shape) - 1))
    split = draw(st.integers(1, len(shape) - 1))
    return Network(shape, (1, *ranks, 1), split, draw(st.integers(fewest_tokens, 6)))


@st.composite
def machines(draw):
    """Machines that like one layout of matrices and hate another, so that programs copy and transpose in every way."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def table(low, high, *shape):
        return tuples(10.0 ** generator.uniform(low, high, shape))

    rates = {"float32": table(6, 12, 2, 3, 4, 6), "float64": table(6, 12, 2, 3, 4, 6)}
    return dataclasses.replace(BUILT_IN, rates=rates, copying=table(6, 14, 3))


def tuples(array):
    return tuple(map(tuples, array)) if array.ndim > 1 else tuple(map(float, array))


def operands(network, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    shapes = [*network.core_shapes, (network.tokens, math.prod(network.shape[: network.split]))]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    if np.dtype(dtype).kind == "c":
        arrays = [array + 1j * rng.standard_normal(array.shape) for array in arrays]
    *cores, x = [array.astype(dtype) for array in arrays]
    return cores, x


def equation(network):
    """The network for einsum: boundary bonds of size 1 left out, x with one axis a mode."""
    letters = [opt_einsum.get_symbol(index) for index in range(2 * len(network.shape))]
    terms = ["".join(letters[index] for index in layout) for layout in network.operands]
    return f"{','.join(terms)}->{''.join(letters[index] for index in network.output)}"


def einsum_operands(network, cores, x):
    first, *middle, last = cores
    return [first[0], *middle, last[:, :, 0], x.reshape(x.shape[0], *network.shape[: network.split])]


def oracle(network, cores, x):
    y = np.einsum(equation(network), *einsum_operands(network, cores, x), optimize=True)
    return y.reshape(x.shape[0], -1 if x.shape[0] else math.prod(network.shape[network.split :]))


def candidates_of(shape, split, ranks, tokens, training):
    plan = ttlib.plan(shape, split=split, ranks=ranks, tokens=tokens, training=training)
    assert tuple(candidate.strategy for candidate in plan.candidates) == STRATEGIES
    return plan.network, plan.candidates


@given(networks(), machines(), st.booleans())
def test_every_strategy_gives_the_numbers_of_einsum_whatever_the_machine(network, machine, training):
    cores, x = operands(network)
    expected = oracle(network, cores, x)
    for candidate in candidates(network, training=training, dtype="float64", machine=machine):
        y = execute(candidate.program, network, cores, x)
        assert y.shape == expected.shape
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max(initial=1))


@given(networks(), networks())
def test_a_plan_holds_for_any_number_of_tokens(network, other):
    cores, _ = operands(network)
    x = np.random.default_rng(1).standard_normal((other.tokens, math.prod(network.shape[: network.split])))
    for candidate in candidates(network, training=False, dtype="float64", machine=BUILT_IN):
        y = execute(candidate.program, network, cores, x)
        np.testing.assert_allclose(y, oracle(network, cores, x), rtol=1e-10, atol=1e-9)


@given(networks(fewest_tokens=1))
def test_flops_order_and_largest_intermediate_are_those_of_path_info(network):
    shapes = [tuple(network.sizes[index] for index in layout) for layout in network.operands]
    plan = ttlib.plan(network.shape, split=network.split, ranks=network.ranks, tokens=network.tokens)
    for strategy in STRATEGIES:
        plan = dataclasses.replace(plan, strategy=strategy)
        _, info = opt_einsum.contract_path(equation(network), *shapes, shapes=True, optimize=plan.order)
        assert plan.flops == info.opt_cost
        copies = [kernel.size for kernel in plan.pick.kernels if isinstance(kernel, Copy)]
        assert plan.peak_elements == max([int(info.largest_intermediate), *copies])


@given(networks(fewest_tokens=1))
def test_the_tree_is_as_cheap_as_the_best_of_all(network):
    shapes = [tuple(network.sizes[index] for index in layout) for layout in network.operands]
    found = candidates(network, training=False, dtype="float32", machine=BUILT_IN)
    tree = next(candidate for candidate in found if candidate.strategy == "tree")
    _, info = opt_einsum.contract_path(equation(network), *shapes, shapes=True, optimize="dp")
    assert tree.flops <= info.opt_cost
    assert tree.flops == min(candidate.flops for candidate in found)


@pytest.mark.parametrize("split", [2, 9, 16])
def test_a_train_too_long_to_search_has_a_good_tree(split):
    network = Network((2,) * 18, (1, *(3,) * 17, 1), split, 2)
    cores, x = operands(network)
    expected = x @ ttlib.TensorTrain(tuple(cores)).to_matrix(2**split, 2 ** (18 - split))
    found = candidates(network, training=False, dtype="float64", machine=BUILT_IN)
    for candidate in found:
        np.testing.assert_allclose(execute(candidate.program, network, cores, x), expected, rtol=1e-9, atol=1e-6)
    assert found[-1].strategy == "tree"
    assert found[-1].flops <= found[0].flops


class Recorder(TorchDispatchMode):
    """Note every product of matrices that torch carries out: its sides, and which way the matrices lie."""

    def __init__(self):
        super().__init__()
        self.products = []
        self.copies = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name == "mm":
            left, right = args
            flags = [not matrix.is_contiguous() for matrix in args]
            self.products.append(plainly(Product(left.shape[0], left.shape[1], right.shape[1], *flags)))
        if name == "clone":
            self.copies.append(Copy(args[0].numel()))
        return result


def plainly(product):
    """A row or a column lies the same way transposed."""
    m, k, n, left, right = dataclasses.astuple(product)
    return Product(m, k, n, left and min(m, k) > 1, right and min(k, n) > 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "split", "ranks", "tokens"), PROBLEMS)
def test_torch_carries_out_the_planned_kernels_and_no_others(shape, split, ranks, tokens, training):
    network, found = candidates_of(shape, split, ranks, tokens, training)
    for candidate in found:
        cores, x = operands(network)
        leaves = [torch.from_numpy(array).requires_grad_(training) for array in (*cores, x)]
        with Recorder() as recorder:
            y = execute(candidate.program, network, leaves[:-1], leaves[-1])
            if training:
                torch.autograd.grad(y, leaves, torch.ones_like(y))
        planned = [plainly(kernel) for kernel in candidate.kernels if isinstance(kernel, Product)]
        assert sorted(recorder.products, key=repr) == sorted(planned, key=repr)
        forward = [kernel for kernel in candidate.program.kernels if isinstance(kernel, Copy)]
        assert sorted(recorder.copies[: len(forward)], key=repr) == sorted(forward, key=repr)


@pytest.mark.parametrize(("shape", "split", "ranks", "tokens"), PROBLEMS)
def test_saved_elements_are_those_that_torch_keeps_for_the_backward_pass(shape, split, ranks, tokens):
    network, found = candidates_of(shape, split, ranks, tokens, True)
    for candidate in found:
        cores, x = operands(network)
        leaves = [torch.from_numpy(array).requires_grad_() for array in (*cores, x)]
        own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = execute(candidate.program, network, leaves[:-1], leaves[-1])
        elements = sum(tensor.numel() for pointer, tensor in kept.items() if pointer not in own)
        assert candidate.saved_elements == elements, candidate.strategy
        assert y.requires_grad


@given(networks(fewest_tokens=1))
def test_gradients_are_those_of_the_dense_layer(network):
    cores, x = operands(network)
    leaves = [torch.from_numpy(array).requires_grad_() for array in (*cores, x)]
    *torch_cores, torch_x = leaves
    rows = math.prod(network.shape[: network.split])
    dense = torch_x @ ttlib.TensorTrain(tuple(torch_cores)).to_matrix(rows, math.prod(network.shape) // rows)
    upstream = torch.from_numpy(np.random.default_rng(3).standard_normal(dense.shape))
    expected = torch.autograd.grad(dense, leaves, upstream)
    for candidate in candidates(network, training=True, dtype="float64", machine=BUILT_IN):
        y = execute(candidate.program, network, torch_cores, torch_x)
        for gradient, right in zip(torch.autograd.grad(y, leaves, upstream), expected, strict=True):
            torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-9 * (1 + float(right.abs().max())))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_library_and_dtype_keeps_itself(asarray, dtype, strategy):
    plan = ttlib.plan((4, 3, 5, 2), split=2, ranks=3, tokens=6, dtype=dtype)
    cores, x = operands(plan.network, dtype)
    y = dataclasses.replace(plan, strategy=strategy).execute([asarray(core) for core in cores], asarray(x))
    assert type(y) is type(asarray(x))
    assert y.dtype == asarray(x).dtype
    tolerance = 1e-4 if dtype in ("float32", "complex64") else 1e-11
    np.testing.assert_allclose(np.asarray(y), oracle(plan.network, cores, x), rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(strategy, dtype):
    plan = ttlib.plan((4, 3, 5, 2), split=2, ranks=3, tokens=6, dtype=dtype)
    cores, x = operands(plan.network)
    *half_cores, half_x = [torch.from_numpy(array).to(dtype) for array in (*cores, x)]
    y = dataclasses.replace(plan, strategy=strategy).execute(half_cores, half_x)
    expected = oracle(plan.network, cores, x)
    assert y.dtype == dtype
    assert np.abs(y.double().numpy() - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_arrays_that_do_not_lie_in_order_are_read_and_not_written(strategy):
    plan = dataclasses.replace(ttlib.plan((4, 3, 5, 2), split=2, ranks=3, tokens=6), strategy=strategy)
    cores, x = operands(plan.network)
    shuffled = [np.asfortranarray(core) for core in cores]
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    for array in (*shuffled, wide):
        array.flags.writeable = False
    np.testing.assert_allclose(plan.execute(shuffled, wide), oracle(plan.network, cores, x), rtol=1e-11)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_x_may_have_any_leading_axes(batch, strategy, convert):
    plan = dataclasses.replace(ttlib.plan((4, 3, 5, 2), split=2, ranks=3, tokens=0), strategy=strategy)
    cores, _ = operands(plan.network)
    x = np.random.default_rng(0).standard_normal((*batch, 12))
    y = plan.execute([convert(core) for core in cores], convert(x))
    assert tuple(y.shape) == (*batch, 10)
    np.testing.assert_allclose(np.asarray(y), oracle(plan.network, cores, x.reshape(-1, 12)).reshape(*batch, 10))


@pytest.mark.jax
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_jax_traces_through_a_plan(strategy):
    jax = pytest.importorskip("jax")
    plan = dataclasses.replace(ttlib.plan((4, 3, 5, 2), split=2, ranks=3, tokens=6), strategy=strategy)
    cores, x = operands(plan.network, "float32")
    jax_cores, jax_x = [jax.numpy.asarray(core) for core in cores], jax.numpy.asarray(x)
    y = jax.jit(plan.execute)(jax_cores, jax_x)
    np.testing.assert_allclose(np.asarray(y), oracle(plan.network, cores, x), rtol=1e-4, atol=1e-4)
    gradient = jax.grad(lambda x: plan.execute(jax_cores, x).sum())(jax_x)
    expected = oracle(plan.network, cores, np.eye(12, dtype="float32")).sum(axis=1)  # the row sums of W
    np.testing.assert_allclose(np.asarray(gradient), np.tile(expected, (6, 1)), rtol=1e-3, atol=1e-3)
