"""Bridges: the same numbers on both sides, the same arrays where that is possible, clear words where it is not."""

import doctest
import importlib
import sys
import warnings

import numpy as np
import pytest
import torch

import ttlib
from tests.core.tensor_files import make
from ttlib import interop
from ttlib.tensor_train import TensorTrain

KINDS = ["tensor_train", "tt_matrix"]
LIBRARIES = ["numpy", "torch"]


def optional(name):
    """Import a neighbour that may be missing, and whose import may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture
def tensorly():
    return optional("tensorly")


@pytest.fixture
def quimb():
    return optional("quimb.tensor")


@pytest.fixture
def torchtt():
    return optional("torchtt")


def dense(tt):
    """The tensor, or the matrix, by numpy.einsum."""
    cores = [np.asarray(core) for core in tt.cores]
    if isinstance(tt, TensorTrain):
        result = cores[0]
        for core in cores[1:]:
            result = np.einsum("...r,rns->...ns", result, core)
        return result[0, ..., 0]
    result = np.ones((1, 1, 1))
    for core in cores:
        result = np.einsum("abr,rmns->ambns", result, core)
        result = result.reshape(result.shape[0] * result.shape[1], -1, result.shape[-1])
    return result[:, :, 0]


def assert_equal(tt, other):
    assert type(tt) is type(other)
    for core, expected in zip(tt.cores, other.cores, strict=True):
        np.testing.assert_array_equal(np.asarray(core), np.asarray(expected), strict=True)


def assert_shares_memory(tt, other):
    for core, original in zip(tt.cores, other.cores, strict=True):
        assert np.shares_memory(np.asarray(core), np.asarray(original))


# Plain lists


def test_the_dimensions_of_the_cores_decide_the_kind():
    for kind in KINDS:
        tt = make(kind, "float64", "numpy")
        assert_equal(interop.from_cores(iter(tt.cores)), tt)
        assert interop.from_cores(tt.cores).cores[0] is tt.cores[0]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("first", "last"), [(True, True), (True, False), (False, True)])
def test_boundary_cores_may_leave_out_their_bond(library, first, last):
    tt = make("tensor_train", "float64", library)
    cores = list(tt.cores)
    cores[0] = cores[0][0] if first else cores[0]
    cores[-1] = cores[-1][..., 0] if last else cores[-1]
    result = interop.from_cores(cores)
    assert_equal(result, tt)
    assert_shares_memory(result, tt)
    assert [core.ndim for core in cores] == [3 - first, 3, 3 - last]


@pytest.mark.parametrize(
    ("cores", "error", "message"),
    [
        ([], ttlib.ShapeError, "at least one core, got none"),
        (None, ttlib.ShapeError, "list or tuple of arrays, got NoneType"),
        ("abc", ttlib.ShapeError, "got str"),
        (np.ones((2, 1, 2, 1)), ttlib.ShapeError, "got ndarray"),
        ([[1.0]], ttlib.BackendError, "got builtins.list"),
        ([np.ones((1, 2, 1)), torch.ones(1, 2, 1)], ttlib.BackendError, "one library"),
        ([np.ones((1, 4))], ttlib.ShapeError, r"core 0 of 1 has shape \(1, 4\)"),
        ([np.ones(4), np.ones((1, 2))], ttlib.ShapeError, r"core 0 of 2 has shape \(4,\)"),
        ([np.ones((4, 2)), np.ones((2, 2)), np.ones((2, 4))], ttlib.ShapeError, r"core 1 of 3 has shape \(2, 2\)"),
        ([np.ones((1, 2, 2)), np.ones((2, 2, 2, 1))], ttlib.ShapeError, "core 1 of 2.*those of a matrix"),
        ([np.ones((4, 2)), np.ones((3, 5))], ttlib.RankError, "core 1"),
        ([np.ones((1, 2, 2, 3)), np.ones((2, 2, 2, 1))], ttlib.RankError, "core 1"),
    ],
)
def test_cores_that_form_no_train(cores, error, message):
    with pytest.raises(error, match=message):
        interop.from_cores(cores)


# tensorly


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_tensorly_gets_the_same_arrays_and_gives_them_back(tensorly, kind, library):
    tt = make(kind, "float64", library)
    theirs = interop.to_tensorly(tt)
    assert type(theirs).__name__ == {"tensor_train": "TTTensor", "tt_matrix": "TTMatrix"}[kind]
    assert all(a is b for a, b in zip(theirs.factors, tt.cores, strict=True))
    back = interop.from_tensorly(theirs)
    assert type(back) is type(tt)
    assert all(a is b for a, b in zip(back.cores, tt.cores, strict=True))
    assert_equal(interop.from_tensorly(list(tt.cores)), tt)


@pytest.mark.parametrize("kind", KINDS)
def test_tensorly_sees_the_same_tensor(tensorly, kind):
    tt = make(kind, "float64", "numpy")
    theirs = interop.to_tensorly(tt)
    numbers = theirs.to_matrix() if kind == "tt_matrix" else theirs.to_tensor()
    np.testing.assert_allclose(numbers, dense(tt), atol=1e-14)


def test_a_decomposition_of_tensorly_becomes_a_train(tensorly):
    import tensorly.decomposition

    tensor = np.random.default_rng(0).standard_normal((4, 5, 6))
    tt = interop.from_tensorly(tensorly.decomposition.tensor_train(tensor, rank=(1, 4, 6, 1)))
    np.testing.assert_allclose(dense(tt), tensor, atol=1e-12)


def test_other_formats_of_tensorly_are_refused(tensorly):
    import tensorly.decomposition

    ring = tensorly.decomposition.tensor_ring(np.ones((4, 4, 4)), rank=[2, 2, 2, 2])
    for other in (ring, np.ones((1, 2, 1)), None):
        with pytest.raises(ttlib.BackendError, match="takes a TTTensor, a TTMatrix or a list"):
            interop.from_tensorly(other)


# quimb


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_quimb_gets_views_and_gives_them_back(quimb, kind, library):
    tt = make(kind, "float64", library)
    back = interop.from_quimb(interop.to_quimb(tt))
    assert_equal(back, tt)
    assert_shares_memory(back, tt)


@pytest.mark.parametrize("kind", KINDS)
def test_quimb_sees_the_same_tensor(quimb, kind):
    tt = make(kind, "complex128", "numpy")
    theirs = interop.to_quimb(tt)
    assert isinstance(theirs, quimb.MatrixProductState if kind == "tensor_train" else quimb.MatrixProductOperator)
    expected = dense(tt)
    np.testing.assert_allclose(np.asarray(theirs.to_dense()).reshape(expected.shape), expected, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, 2])
def test_short_chains(quimb, kind, order):
    tt = make(kind, "float64", "numpy")
    cores = [tt.cores[0][..., :1], tt.cores[0][:, ..., :1]] if order == 2 else [tt.cores[0][..., :1]]
    tt = type(tt)(cores)
    theirs = interop.to_quimb(tt)
    assert_equal(interop.from_quimb(theirs), tt)
    np.testing.assert_allclose(np.asarray(theirs.to_dense()).reshape(dense(tt).shape), dense(tt), atol=1e-14)


def test_what_quimb_makes_becomes_a_train(quimb):
    mps = quimb.MPS_rand_state(5, 4, phys_dim=3, dtype=complex, seed=0)
    np.testing.assert_allclose(dense(interop.from_quimb(mps)).ravel(), mps.to_dense().ravel(), atol=1e-14)
    mpo = quimb.MPO_rand(4, 3, dtype=float, seed=0)
    np.testing.assert_allclose(dense(interop.from_quimb(mpo)), mpo.to_dense(), atol=1e-14)
    tensor = np.random.default_rng(0).standard_normal((2, 3, 4))
    mps = quimb.MatrixProductState.from_dense(tensor.ravel(), dims=(2, 3, 4))
    np.testing.assert_allclose(dense(interop.from_quimb(mps)), tensor, atol=1e-12)


def test_the_order_of_indices_in_quimb_does_not_matter(quimb):
    mps = quimb.MPS_rand_state(4, 3, dtype=float, seed=0)
    expected = interop.from_quimb(mps)
    mps.permute_arrays("prl")
    assert_equal(interop.from_quimb(mps), expected)
    mpo = quimb.MPO_rand(4, 3, dtype=float, seed=0)
    expected = interop.from_quimb(mpo)
    mpo.permute_arrays("durl")
    assert_equal(interop.from_quimb(mpo), expected)


def test_a_product_state_needs_no_bonds(quimb):
    vectors = [np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])]
    tensors = [quimb.Tensor(v, inds=[f"k{k}"], tags=[f"I{k}"]) for k, v in enumerate(vectors)]
    mps = quimb.TensorNetwork(tensors).view_as(
        quimb.MatrixProductState, L=2, site_ind_id="k{}", site_tag_id="I{}", cyclic=False
    )
    tt = interop.from_quimb(mps)
    assert tt.ranks == (1, 1, 1)
    np.testing.assert_array_equal(dense(tt), np.outer(*vectors))


@pytest.mark.parametrize("exponent", [2.0, -3.5])
def test_the_exponent_of_quimb_is_multiplied_in(quimb, exponent):
    mps = quimb.MPS_rand_state(4, 3, dtype="float32", seed=0)
    mps.exponent = exponent
    tt = interop.from_quimb(mps)
    assert tt.dtype == np.float32
    np.testing.assert_allclose(dense(tt).ravel(), mps.to_dense().ravel(), rtol=1e-5, atol=1e-6 * 10**exponent)


def test_networks_of_quimb_that_are_no_open_chain(quimb):
    with pytest.raises(ttlib.ShapeError, match="chain must be open"):
        interop.from_quimb(quimb.MPS_rand_state(4, 3, cyclic=True, dtype=float, seed=0))
    mps = quimb.MPS_rand_state(4, 3, dtype=float, seed=0)
    split = mps.gate(np.eye(4), (1, 2), contract=False)
    with pytest.raises(ttlib.ShapeError, match="site 1 holds 2 tensors: contract"):
        interop.from_quimb(split)
    double = mps.copy()
    left, right = double[1], double[2]
    left.new_ind("extra", size=1)
    right.new_ind("extra", size=1)
    with pytest.raises(ttlib.ShapeError, match="share the 2 bonds .*fuse_multibonds"):
        interop.from_quimb(double)
    double.fuse_multibonds_()
    assert interop.from_quimb(double).ranks == interop.from_quimb(mps).ranks
    for other in (quimb.PEPS.rand(2, 2, 2, seed=0), list(mps.arrays), None):
        with pytest.raises(ttlib.BackendError, match="takes a MatrixProductState or MatrixProductOperator"):
            interop.from_quimb(other)


# torchtt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_torchtt_gets_the_same_tensors_and_gives_them_back(torchtt, kind, library):
    tt = make(kind, "float64", library)
    theirs = interop.to_torchtt(tt)
    assert theirs.is_ttm == (kind == "tt_matrix")
    back = interop.from_torchtt(theirs)
    assert_equal(back, tt)
    assert_shares_memory(back, tt)
    if library == "torch":
        assert all(a is b for a, b in zip(theirs.cores, tt.cores, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_torchtt_sees_the_same_tensor(torchtt, kind):
    tt = make(kind, "float64", "torch")
    expected = dense(tt)
    np.testing.assert_allclose(interop.to_torchtt(tt).full().numpy().reshape(expected.shape), expected, atol=1e-14)


def test_what_torchtt_makes_becomes_a_train(torchtt):
    tensor = torch.tensor(np.random.default_rng(0).standard_normal((3, 4, 5)))
    np.testing.assert_allclose(dense(interop.from_torchtt(torchtt.TT(tensor))), tensor, atol=1e-9)
    matrix = torch.tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 5)))
    theirs = torchtt.TT(matrix, shape=[(2, 4), (3, 5)])
    np.testing.assert_allclose(dense(interop.from_torchtt(theirs)), matrix.reshape(6, 20), atol=1e-9)


def test_torchtt_copies_what_may_not_be_written(torchtt):
    tt = make("tensor_train", "float64", "numpy")
    for core in tt.cores:
        core.flags.writeable = False
    theirs = interop.to_torchtt(tt)
    theirs.cores[0].zero_()
    assert tt.cores[0].all()


def test_gradients_go_through_torchtt_and_back(torchtt):
    tt = make("tensor_train", "float64", "torch")
    core = tt.cores[1].requires_grad_()
    interop.from_torchtt(2 * interop.to_torchtt(tt)).cores[1].sum().backward()
    assert core.grad is not None


def test_what_is_no_train_of_torchtt(torchtt):
    with pytest.raises(ttlib.BackendError, match=r"takes a torchtt.TT, got Tensor"):
        interop.from_torchtt(torch.ones(2))
    with pytest.raises(ttlib.ShapeError, match="at least one core"):
        interop.from_torchtt(torchtt.TT(None))


# All of them


@pytest.mark.parametrize("name", ["tensorly", "quimb", "torchtt"])
@pytest.mark.parametrize("value", [np.ones(3), None])
def test_only_trains_are_converted(name, value):
    with pytest.raises(ttlib.BackendError, match=f"to_{name} takes a TensorTrain or TTMatrix, got"):
        getattr(interop, f"to_{name}")(value)


@pytest.mark.parametrize("name", ["tensorly", "quimb", "torchtt"])
def test_a_missing_neighbour_is_named_with_the_way_to_install_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    tt = make("tensor_train", "float64", "numpy")
    for call in (getattr(interop, f"to_{name}"), getattr(interop, f"from_{name}")):
        with pytest.raises(ImportError, match=f"bridge to {name} needs the package: pip install {name}"):
            call(tt)


@pytest.mark.parametrize("name", ["quimb", "torchtt"])
def test_the_examples_of_optional_neighbours_run(name):
    optional(name)
    module = importlib.import_module(f"ttlib.interop.{name}")
    tests = doctest.DocTestFinder(exclude_empty=True).find(module)
    examples = [example for test in tests for example in test.examples]
    assert len(examples) >= 6
    for example in examples:
        example.options.pop(doctest.SKIP, None)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
