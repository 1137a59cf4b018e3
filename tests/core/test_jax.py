"""JAX as the library: the same values, first derivatives in reverse mode, and what cannot be traced says so."""

import math
import re

import numpy as np
import pytest

import ttlib

jax = pytest.importorskip("jax")
jnp = jax.numpy

pytestmark = pytest.mark.jax

SHAPE = (4, 5, 3)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal(SHAPE)


@pytest.fixture
def tt():
    return ttlib.random(SHAPE, ranks=3, seed=0, like=jnp.zeros(1))


@pytest.fixture
def matrix():
    dense = np.random.default_rng(1).standard_normal((6, 20))
    return ttlib.decompose_matrix(jnp.asarray(dense), row_shape=[2, 3], col_shape=[4, 5])


def in_numpy(train):
    return train.to(like=np.zeros(1, np.dtype(str(train.dtype))))


def assert_same(ours, theirs, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=tolerance)


# Values


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"eps": 0.3},
        {"parameters": 40},
        *({"ranks": 2, "driver": name} for name in ("lapack", "qr", "gram", "sketch")),
    ],
    ids=str,
)
def test_decompose_finds_what_it_finds_in_numpy(values, how):
    ours, report = ttlib.decompose(jnp.asarray(values), return_report=True, **how)
    theirs, expected = ttlib.decompose(values, return_report=True, **how)
    assert isinstance(ours.cores[0], jax.Array)
    assert ours.ranks == theirs.ranks
    assert ours.dtype == jnp.float64
    assert_same(ours.to_tensor(), theirs.to_tensor())
    assert report.relative_error == pytest.approx(expected.relative_error, abs=1e-14)


@pytest.mark.parametrize("dtype", ["complex64", "float16", "bfloat16"])
def test_dtypes_come_back(values, dtype):
    tensor = jnp.asarray(values).astype(getattr(jnp, dtype))
    found = ttlib.decompose(tensor, eps=0.2)
    assert found.dtype == tensor.dtype
    error = jnp.linalg.norm((found.to_tensor() - tensor).astype(jnp.complex128).ravel())
    assert error <= (0.2 + 0.05 * dtype.endswith("16")) * jnp.linalg.norm(tensor.astype(jnp.complex128).ravel())
    assert found.round(eps=0.3).dtype == tensor.dtype


def test_integers_become_float64():
    found = ttlib.decompose(jnp.arange(24).reshape(4, 6))
    assert found.dtype == jnp.float64
    assert found.ranks == (1, 2, 1)


@pytest.mark.parametrize("how", [{}, {"eps": 0.5}, {"parameters": 40}], ids=str)
def test_rounding_is_that_of_numpy(tt, how):
    ours, theirs = (tt + tt).round(**how), (in_numpy(tt) + in_numpy(tt)).round(**how)
    assert ours.ranks == theirs.ranks
    assert_same(ours.to_tensor(), theirs.to_tensor(), 1e-11)


def test_arithmetic_is_that_of_numpy(tt):
    other = ttlib.random(SHAPE, ranks=2, seed=1, like=jnp.zeros(1))
    a, b = np.asarray(tt.to_tensor()), np.asarray(other.to_tensor())
    assert_same((tt + other).to_tensor(), a + b)
    assert_same((tt - other).to_tensor(), a - b)
    assert_same((tt * other).to_tensor(), a * b)
    assert_same((2 * tt / 4 - 1).to_tensor(), a / 2 - 1)
    assert_same((tt * jnp.asarray(2.0)).to_tensor(), 2 * a)
    assert_same((jnp.asarray(2.0) * tt).to_tensor(), 2 * a)
    assert_same((jnp.asarray(2.0) + tt).to_tensor(), 2 + a)
    assert_same(tt.kron(other).to_tensor(), np.multiply.outer(a, b))
    assert_same(tt.dot(other), np.vdot(a, b))
    assert_same(tt @ other, np.vdot(a, b))
    assert_same(tt.norm(), np.linalg.norm(a))
    assert_same(tt.sum(), a.sum())
    assert_same(tt.sum(axis=(0, 2)).to_tensor(), a.sum(axis=(0, 2)))
    assert_same(tt[1:, 2].to_tensor(), a[1:, 2])
    assert_same(tt[3, -1, 0], a[3, -1, 0])
    assert_same(tt.elements([[0, 1, 2], [-1, 4, 0]]), a[[0, -1], [1, 4], [2, 0]])
    assert_same(tt.elements(jnp.asarray([[0, 1, 2]])), a[0, 1, 2])
    assert_same(tt.T.to_tensor(), a.T)
    assert tt.log_norm() == pytest.approx(math.log(np.linalg.norm(a)))


@pytest.mark.parametrize("centre", [0, 1, 2])
def test_canonical_forms_are_orthogonal_and_the_same_tensor(tt, centre):
    form = tt.orthogonal(centre)
    assert_same(form.to_tensor(), tt.to_tensor())
    for k, core in enumerate(form.cores):
        if k < centre:
            assert_same(jnp.einsum("anb,anc->bc", core, core), np.eye(core.shape[2]))
        if k > centre:
            assert_same(jnp.einsum("anb,cnb->ac", core, core), np.eye(core.shape[0]))


def test_matrix_products_are_those_of_the_dense_matrices(matrix):
    dense = np.asarray(matrix.to_matrix())
    column, row = np.arange(20.0), np.arange(6.0)
    assert_same(matrix @ jnp.asarray(column), dense @ column)
    assert_same(jnp.asarray(row) @ matrix, row @ dense)
    assert_same(matrix @ jnp.ones((2, 3, 20)), np.ones((2, 3, 20)) @ dense.T)
    assert_same((matrix @ matrix.T).to_matrix(), dense @ dense.T)
    assert_same((matrix @ matrix.T).trace(), np.trace(dense @ dense.T))
    assert_same(matrix[3, 11], dense[3, 11])
    vector = ttlib.ones((4, 5), like=jnp.zeros(1))
    assert_same((matrix @ vector).to_tensor().reshape(-1), dense.sum(axis=1))


def test_batches_sums_and_conversions(values, tt):
    trains = ttlib.decompose_batch(jnp.stack([jnp.asarray(values), jnp.asarray(2 * values)]), eps=0.3)
    assert len({train.ranks for train in trains}) == 1
    assert_same(ttlib.round_sum([tt, tt], ranks=3).to_tensor(), 2 * tt.to_tensor(), 1e-10)
    assert_same(in_numpy(tt).to(like=jnp.zeros(1)).to_tensor(), tt.to_tensor())
    assert tt.to(dtype="float32").dtype == jnp.float32
    assert isinstance(ttlib.eye((2, 3), like=jnp.zeros(1)).to_matrix(), jax.Array)


def test_input_that_cannot_be_is_refused():
    with pytest.raises(ttlib.NonFiniteError, match=r"first at \(1, 0\)"):
        ttlib.decompose(jnp.asarray([[1.0, 2.0], [jnp.nan, 3.0]]))
    with pytest.raises(ttlib.BackendError, match="one library"):
        ttlib.TensorTrain([np.ones((1, 2, 1)), jnp.ones((1, 2, 1))])


@pytest.mark.parametrize("driver", ["auto", "lapack", "qr", "gram", "sketch"])
def test_single_precision_needs_no_doubles(driver):
    """Without x64 JAX warns whenever float64 is asked of it, and a warning is an error here."""
    with jax.enable_x64(False):
        tensor = jnp.asarray(np.random.default_rng(0).standard_normal((6, 20)), dtype=jnp.float32)
        found, report = ttlib.decompose(tensor, eps=0.5, driver=driver, return_report=True)
        error = jnp.linalg.norm((found.to_tensor() - tensor).ravel()) / jnp.linalg.norm(tensor.ravel())
        assert found.dtype == jnp.float32
        assert report.relative_error == pytest.approx(float(error), rel=1e-3)
        assert (found + found).round(eps=1e-4).ranks == found.ranks
        assert ttlib.ones((2, 3), like=tensor).dtype == jnp.float32


# Derivatives


def check_gradient(function, point, tolerance=1e-6):
    """Compare jax.grad with a central difference along a random direction, over all leaves of *point*."""
    rng = np.random.default_rng(5)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), point)
    step = 1e-6
    ahead = function(jax.tree.map(lambda x, d: x + step * d, point, direction))
    behind = function(jax.tree.map(lambda x, d: x - step * d, point, direction))
    gradient = jax.grad(function)(point)
    parts = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
    assert float(sum(jax.tree.leaves(parts))) == pytest.approx(float((ahead - behind) / (2 * step)), rel=tolerance)


def weigh(tensor):
    return jnp.sum(tensor * jnp.cos(jnp.arange(tensor.size, dtype=jnp.float64)).reshape(tensor.shape))


@pytest.mark.parametrize("how", [{"ranks": 2}, {"parameters": 20}, {"ranks": 2, "driver": "sketch"}], ids=str)
def test_decompose_has_a_gradient(values, how):
    check_gradient(lambda x: weigh(ttlib.decompose(x, **how).to_tensor()), jnp.asarray(values[:, :, 0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda t: weigh((t + t).round(ranks=2).to_tensor()),
        lambda t: weigh((t * t + 3 * t - 1).to_tensor()),
        lambda t: t.dot(2 * t) + t.norm(),
        lambda t: t.sum() * t[1, 1] + weigh(t[2, 1:].to_tensor()),
        lambda t: weigh(t.elements([[0, 1], [3, 4]])),
        lambda t: weigh(t.left_orthogonal().to_tensor()),
    ],
    ids=["round", "arithmetic", "dot and norm", "sums and slices", "elements", "orthogonal"],
)
def test_trains_have_gradients_in_all_their_cores(function):
    small = ttlib.random((4, 5), ranks=3, seed=2, like=jnp.zeros(1))
    check_gradient(lambda cores: function(ttlib.TensorTrain(cores)), small.cores)


def test_one_core_may_be_followed_while_the_others_are_constants(tt):
    def loss(core):
        return ttlib.TensorTrain((core, *tt.cores[1:])).dot(tt)

    check_gradient(loss, tt.cores[0])


def test_matrix_products_have_gradients(matrix):
    vectors = jnp.ones((2, 20))

    def loss(cores, x):
        product = ttlib.TTMatrix(cores) @ ttlib.TTMatrix(cores).T
        return weigh(ttlib.TTMatrix(cores) @ x) + product.trace()

    check_gradient(lambda point: loss(*point), (matrix.cores, vectors))


def test_equal_singular_values_have_a_gradient_where_the_cut_is_not_between_them():
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((4, 4)))[0], np.linalg.qr(rng.standard_normal((5, 4)))[0]
    point = jnp.asarray(left * np.array([2.0, 2.0, 1.0, 1.0]) @ right.T)
    check_gradient(lambda x: weigh(ttlib.decompose(x, ranks=2).to_tensor()), point)
    with pytest.raises(ttlib.RankError, match="rank 1 cuts between two equal singular values"):
        jax.grad(lambda x: weigh(ttlib.decompose(x, ranks=1).to_tensor()))(point)


def test_second_and_forward_derivatives_of_a_truncation_are_refused(values):
    def loss(x):
        return weigh(ttlib.decompose(x, ranks=2).to_tensor())

    point = jnp.asarray(values[:, :, 0])
    with pytest.raises(ttlib.BackendError, match="first derivatives in reverse mode only"):
        jax.grad(lambda x: jnp.sum(jax.grad(loss)(x)))(point)
    with pytest.raises(TypeError, match="jvp|forward"):
        jax.jvp(loss, (point,), (point,))


def test_the_norm_has_second_derivatives(tt):
    def norm(core):
        return ttlib.TensorTrain((core, *tt.cores[1:])).norm()

    rng = np.random.default_rng(3)
    point, direction = tt.cores[0], jnp.asarray(rng.standard_normal(tt.cores[0].shape))
    second = jax.grad(lambda x: jnp.sum(jax.grad(norm)(x) * direction))(point)
    step = 1e-5
    expected = (jax.grad(norm)(point + step * direction) - jax.grad(norm)(point - step * direction)) / (2 * step)
    assert_same(second, expected, 1e-6)


# Tracing


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t.to_tensor(),
        lambda t: ((t + t) * t - 2 * t).to_tensor(),
        lambda t: t.dot(t),
        lambda t: t.norm(),
        lambda t: t.sum(axis=1).to_tensor(),
        lambda t: t[1, :, 2].to_tensor(),
        lambda t: t.elements([[0, 1, 2]]),
    ],
    ids=["dense", "arithmetic", "dot", "norm", "sum", "index", "elements"],
)
def test_what_has_a_fixed_shape_can_be_compiled(tt, function):
    compiled = jax.jit(lambda cores: function(ttlib.TensorTrain(cores)))
    assert_same(compiled(tt.cores), function(tt))


def test_products_with_a_constant_matrix_can_be_compiled(matrix):
    compiled = jax.jit(lambda x: matrix @ x)
    assert_same(compiled(jnp.ones(20)), matrix @ jnp.ones(20))


def test_compiled_functions_may_mix_traced_and_constant_cores(tt):
    compiled = jax.jit(lambda core: ttlib.TensorTrain((core, *tt.cores[1:])).to_tensor())
    assert_same(compiled(tt.cores[0]), tt.to_tensor())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ttlib.decompose(x, eps=0.1).to_tensor(),
        lambda x: ttlib.TensorTrain((x[:1], x[0].T.reshape(3, 5, 1))).round(eps=0.1).to_tensor(),
        lambda x: ttlib.TensorTrain((x[:1], x[0].T.reshape(3, 5, 1))).orthogonal(0).to_tensor(),
        lambda x: ttlib.TensorTrain((x[:1], x[0].T.reshape(3, 5, 1))).log_norm(),
        lambda x: ttlib.TensorTrain((x[:1], x[0].T.reshape(3, 5, 1))).singular_values(),
    ],
    ids=["decompose", "round", "orthogonal", "log_norm", "singular_values"],
)
def test_what_depends_on_the_numbers_says_that_it_cannot_be_compiled(function):
    """Their ranks or scales depend on values; JAX names the argument whose value was asked for, or ttlib refuses."""
    refusals = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, ttlib.BackendError)
    with pytest.raises(refusals, match=re.compile("trac|jit|concrete", re.IGNORECASE)):
        jax.jit(function)(jnp.ones((4, 5, 3)))
