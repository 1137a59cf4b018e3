"""What the tests of tensorly, torchTT, tntorch, teneva, t3f and others require of a tensor train, required of ttlib.

Properties, not code: each is stated anew, with numpy's dense arrays or tensorly itself as the oracle.
"""

import itertools
import math

import numpy as np
import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import tensor_train, tensor_train_matrix

import ttlib

LIBRARIES = {"numpy": np.array, "torch": lambda values: torch.from_numpy(np.array(values))}
BOTH_KINDS = pytest.mark.parametrize("dtype", ["float64", "complex128"])


@pytest.fixture(params=LIBRARIES)
def array(request):
    """Make an array of numpy or torch from a numpy array."""
    return LIBRARIES[request.param]


def draw(shape, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    return values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values


def train(shape, ranks, *, seed=0, dtype="float64", array=np.array):
    bonds = ttlib.clip_ranks(shape, ranks)
    cores = [
        array(draw((left, mode, right), 100 * seed + k, dtype))
        for k, (left, mode, right) in enumerate(zip(bonds[:-1], shape, bonds[1:], strict=True))
    ]
    return ttlib.TensorTrain(cores)


def matrix(rows, cols, ranks, *, seed=0, dtype="float64", array=np.array):
    modes = [m * n for m, n in zip(rows, cols, strict=True)]
    fused = train(modes, ranks, seed=seed, dtype=dtype, array=array)
    return ttlib.TTMatrix.from_tensor_train(fused, row_shape=rows, col_shape=cols)


def dense(value):
    return np.asarray(value.to_matrix() if isinstance(value, ttlib.TTMatrix) else value.to_tensor())


def assert_close(ours, expected, tolerance=1e-12):
    expected = np.asarray(expected)
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


# tensorly: the decompositions themselves


@BOTH_KINDS
@pytest.mark.parametrize("shape", [(3, 4, 5), (6, 5, 4, 3), (2, 2, 2, 2, 2), (1, 7, 2), (9, 8)], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3, 100])
def test_tensorly_finds_the_same_train(shape, rank, dtype):
    tensor = draw(shape, dtype=dtype)
    ours = ttlib.decompose(tensor, ranks=rank)
    theirs = tensor_train(tl.tensor(tensor), rank=list(ours.ranks))
    assert [core.shape for core in ours.cores] == [tuple(core.shape) for core in theirs.factors]
    assert_close(dense(ours), tl.tt_to_tensor(theirs))


@pytest.mark.parametrize("seed", range(4))
def test_the_canonical_parts_of_tensorly_and_ttlib_span_the_same_spaces(seed):
    tensor = draw((4, 5, 6), seed)
    ours = ttlib.decompose(tensor, ranks=[3, 4])
    theirs = tensor_train(tl.tensor(tensor), rank=[1, 3, 4, 1])
    for mine, other in zip(ours.cores[:1], theirs.factors[:1], strict=True):
        u, v = mine.reshape(-1, mine.shape[2]), other.reshape(-1, other.shape[2])
        assert_close(u @ u.T, v @ v.T)


@BOTH_KINDS
@pytest.mark.parametrize(
    ("rows", "cols", "rank"),
    [
        ((2, 3), (4, 5), 3),
        ((2, 3, 2), (3, 2, 2), 4),
        ((4, 4), (4, 4), 100),
        ((1, 6), (5, 1), 2),
        ((2, 2, 2), (2, 2, 2), 1),
    ],
    ids=str,
)
def test_tensorly_finds_the_same_tt_matrix(rows, cols, rank, dtype):
    tensor = draw((math.prod(rows), math.prod(cols)), dtype=dtype)
    ours = ttlib.decompose_matrix(tensor, row_shape=rows, col_shape=cols, ranks=rank)
    theirs = tensor_train_matrix(tl.tensor(tensor.reshape(*rows, *cols)), rank=list(ours.ranks))
    assert [core.shape for core in ours.cores] == [tuple(core.shape) for core in theirs]
    assert_close(dense(ours), tl.tt_matrix.tt_matrix_to_matrix(theirs))


def test_an_exactly_low_rank_tensor_is_recovered_at_its_ranks(array):
    exact = train((5, 6, 7), [2, 3], array=array)
    for ranks in ([2, 3], [1, 2, 3, 1], (1, 2, 3, 1)):
        found = ttlib.decompose(exact.to_tensor(), ranks=ranks)
        assert found.ranks == (1, 2, 3, 1)
        assert_close(dense(found), dense(exact))


def test_the_parameters_are_the_entries_of_the_cores():
    tt = train((3, 4, 5, 6), [2, 5, 3])
    expected = 1 * 3 * 2 + 2 * 4 * 5 + 5 * 5 * 3 + 3 * 6 * 1
    assert tt.parameters == expected == ttlib.count_parameters((3, 4, 5, 6), ranks=[2, 5, 3])


def test_fixed_numbers_contract_to_fixed_numbers():
    """The cores hold one table: entry (i, j, k) is i + 10 j + 100 k."""
    first = np.array([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 2)  # (1, i)
    second = np.stack([np.array([[1.0, 10.0 * j], [0.0, 1.0]]) for j in range(3)], axis=1)
    last = np.stack([np.array([[100.0 * k], [1.0]]) for k in range(2)], axis=1)  # (100 k, 1)
    tt = ttlib.TensorTrain([first, second, last])
    i, j, k = np.indices((2, 3, 2))
    assert_close(dense(tt), i + 10 * j + 100 * k)


# torchTT: algebra over real and complex numbers


SHAPES = [(4, 5, 3), (2, 3, 4, 2), (6,), (3, 7)]


@BOTH_KINDS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_differences_and_products(shape, dtype, array):
    a, b = train(shape, 3, seed=1, dtype=dtype, array=array), train(shape, 2, seed=2, dtype=dtype, array=array)
    x, y = dense(a), dense(b)
    assert_close(dense(a + b), x + y)
    assert_close(dense(a - b), x - y)
    assert_close(dense(a * b), x * y)
    assert_close(dense(-a), -x)
    assert_close(dense(2.5 * a / 5), x / 2)
    assert_close(dense(a + 1.5), x + 1.5)
    assert_close(dense(1.5 - a), 1.5 - x)
    assert_close(dense(a * (1 - 2j)), x * (1 - 2j))
    assert_close(dense(a.conj()), x.conj())
    for ours, one, two in zip((a + b).ranks[1:-1], a.ranks[1:-1], b.ranks[1:-1], strict=True):
        assert ours == one + two
    for ours, one, two in zip((a * b).ranks, a.ranks, b.ranks, strict=True):
        assert ours == one * two


@BOTH_KINDS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inner_products_norms_and_sums(shape, dtype, array):
    a, b = train(shape, 3, seed=1, dtype=dtype, array=array), train(shape, 2, seed=2, dtype=dtype, array=array)
    x, y = dense(a), dense(b)
    assert_close(a.dot(b), np.vdot(x, y))
    assert_close(b.dot(a), np.vdot(y, x))
    assert_close(a @ b, np.sum(x * y))
    assert_close(a.norm(), np.linalg.norm(x))
    assert_close(a.sum(), x.sum())
    for count in range(1, len(shape) + 1):
        for axes in itertools.combinations(range(len(shape)), count):
            partial = a.sum(axis=axes)
            found = dense(partial) if isinstance(partial, ttlib.TensorTrain) else partial
            assert_close(found, x.sum(axis=axes))


def test_means_and_variances_are_those_of_the_dense_tensor(array):
    tt = train((4, 5, 6), 3, array=array)
    x = dense(tt)
    size = math.prod(tt.shape)
    mean = tt.sum() / size
    assert float(mean) == pytest.approx(x.mean())
    centred = tt - mean
    assert float(centred.norm()) ** 2 / size == pytest.approx(x.var())
    assert_close(dense(tt.sum(axis=1) / 5), x.mean(axis=1))


def test_a_weighted_sum_is_an_inner_product_with_a_rank_one_train(array):
    tt = train((4, 5, 6), 3, array=array)
    weights = [draw(mode, seed=k) for k, mode in enumerate(tt.shape)]
    found = ttlib.rank_one([array(w) for w in weights]).dot(tt)
    assert float(found) == pytest.approx(np.einsum("ijk,i,j,k", dense(tt), *weights))


@BOTH_KINDS
def test_kronecker_products(dtype, array):
    a, b = train((3, 4), 2, seed=1, dtype=dtype, array=array), train((2, 5), 2, seed=2, dtype=dtype, array=array)
    assert_close(dense(a.kron(b)), np.multiply.outer(dense(a), dense(b)))
    assert a.kron(b).ranks == (1, 2, 1, 2, 1)
    A = matrix((2, 3), (3, 2), 2, seed=3, dtype=dtype, array=array)
    B = matrix((2,), (4,), 1, seed=4, dtype=dtype, array=array)
    assert_close(dense(A.kron(B)), np.kron(dense(A), dense(B)))


INDICES = [
    np.s_[1],
    np.s_[-1],
    np.s_[1, 2, 3, 1],
    np.s_[-1, -2, -3, -1],
    np.s_[:, 2],
    np.s_[1:3],
    np.s_[::2, 1, ::3],
    np.s_[..., 0],
    np.s_[0, ..., 1],
    np.s_[..., 1, :],
    np.s_[:, :, 1:2, :],
    np.s_[-3:-1, :, 2],
    np.s_[1:100],
    np.s_[()],
    np.s_[...],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_are_those_of_numpy(index, array):
    tt = train((4, 5, 6, 2), 3, array=array)
    found, expected = tt[index], dense(tt)[index]
    if expected.ndim:
        assert found.shape == expected.shape
        assert_close(dense(found), expected)
    else:
        assert tuple(found.shape) == ()
        assert_close(found, expected)


def test_entries_are_gathered_in_any_number(array):
    tt = train((4, 5, 6, 2), 3, array=array)
    rng = np.random.default_rng(0)
    indices = np.stack([rng.integers(-mode, mode, 200) for mode in tt.shape], axis=1)
    expected = dense(tt)[tuple(indices.T)]
    for given_indices in (indices, array(indices), indices.tolist(), indices.astype(np.int8)):
        assert_close(tt.elements(given_indices), expected)
    assert tuple(tt.elements(indices[:0]).shape) == (0,)


def test_all_entries_gathered_make_the_tensor(array):
    tt = train((2, 3, 4), 3, array=array)
    every = np.array(list(np.ndindex(2, 3, 4)))
    assert_close(np.asarray(tt.elements(every)).reshape(2, 3, 4), dense(tt))


# Rounding


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 1000))
def test_a_train_added_to_itself_rounds_back(shape, rank, seed):
    g = ttlib.random(shape, ranks=rank, seed=seed)
    doubled = (g + g).round(eps=1e-10)
    assert all(ours <= given for ours, given in zip(doubled.ranks, g.ranks, strict=True))
    scale = float(g.norm())
    assert float((doubled - 2 * g).norm()) <= 1e-9 * scale
    assert float((g - g).norm()) <= 1e-12 * scale


@BOTH_KINDS
def test_rounding_removes_what_was_padded_with_zeros(dtype, array):
    exact = train((4, 5, 6), 2, dtype=dtype, array=array)
    padded = exact + 0 * train((4, 5, 6), 4, seed=1, dtype=dtype, array=array)
    assert padded.ranks == (1, 6, 6, 1)
    assert padded.round().ranks == exact.ranks
    assert_close(dense(padded.round()), dense(exact))


def test_twenty_modes_of_two_at_rank_sixteen_round_exactly(array):
    tt = train((2,) * 20, 16, array=array)
    assert max(tt.ranks) == 16
    unit = tt / tt.norm()
    doubled = (unit + unit).round(eps=1e-10)
    assert doubled.ranks == tt.ranks
    assert float((doubled - 2 * unit).norm()) < 1e-9
    assert float(doubled.norm()) == pytest.approx(2)
    picks = np.random.default_rng(0).integers(0, 2, (50, 20))
    assert_close(doubled.elements(picks), 2 * np.asarray(unit.elements(picks)), 1e-9)


def test_a_function_of_twenty_bits_is_compressed_to_its_ranks():
    """exp(x) has rank 1 over binary digits, sin(x) rank 2 and a polynomial of degree 3 at most rank 4."""
    grid = np.linspace(0, 1, 2**14, endpoint=False)
    for values, rank in ((np.exp(grid), 1), (np.sin(7 * grid), 2), (1 + grid - 3 * grid**3, 4)):
        tt, report = ttlib.decompose(values, shape=(2,) * 14, eps=1e-12, return_report=True)
        assert max(tt.ranks) == rank
        assert report.relative_error < 1e-12
        assert_close(dense(tt).ravel(), values)


def test_rounding_matches_decomposing_the_dense_tensor(array):
    tt = train((5, 6, 7), 6, array=array)
    for how in ({"ranks": 3}, {"eps": 0.3}, {"ranks": [2, 5]}):
        ours, theirs = tt.round(**how), ttlib.decompose(tt.to_tensor(), **how)
        assert ours.ranks == theirs.ranks
        assert_close(dense(ours), dense(theirs), 1e-10)


# Orthogonality


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(1, 5),
    st.integers(0, 1000),
    st.booleans(),
    st.data(),
)
def test_a_hundred_random_trains_keep_their_values_under_orthogonalisation(shape, rank, seed, as_complex, data):
    tt = train(shape, rank, seed=seed, dtype="complex128" if as_complex else "float64")
    centre = data.draw(st.integers(0, len(shape) - 1))
    for form, place in (
        (tt.orthogonal(centre), centre),
        (tt.left_orthogonal(), len(shape) - 1),
        (tt.right_orthogonal(), 0),
    ):
        assert_close(dense(form), dense(tt))
        for k, core in enumerate(form.cores):
            if k < place:
                assert_close(np.einsum("anb,anc->bc", core.conj(), core), np.eye(core.shape[2]))
            if k > place:
                assert_close(np.einsum("anb,cnb->ac", core.conj(), core), np.eye(core.shape[0]))
        assert float(np.linalg.norm(form.cores[place])) == pytest.approx(float(np.linalg.norm(dense(tt))))


@BOTH_KINDS
def test_matrices_have_orthogonal_forms_too(dtype, array):
    A = matrix((2, 3, 2), (3, 2, 4), 4, dtype=dtype, array=array)
    for form, centre in ((A.left_orthogonal(), 2), (A.right_orthogonal(), 0), (A.orthogonal(1), 1)):
        assert_close(dense(form), dense(A))
        for k, core in enumerate(np.asarray(c) for c in form.cores):
            if k < centre:
                assert_close(np.einsum("amnb,amnc->bc", core.conj(), core), np.eye(core.shape[3]))
            if k > centre:
                assert_close(np.einsum("amnb,cmnb->ac", core.conj(), core), np.eye(core.shape[0]))


# Matrices


PAIRS = [((2, 3), (3, 2)), ((4,), (5,)), ((2, 2, 3), (1, 4, 2)), ((3, 1, 2), (3, 1, 2))]


@BOTH_KINDS
@pytest.mark.parametrize(("rows", "cols"), PAIRS, ids=str)
def test_matrix_products(rows, cols, dtype, array):
    A = matrix(rows, cols, 3, seed=1, dtype=dtype, array=array)
    B = matrix(cols, rows, 2, seed=2, dtype=dtype, array=array)
    x, y = train(cols, 2, seed=3, dtype=dtype, array=array), train(rows, 2, seed=4, dtype=dtype, array=array)
    a, b = dense(A), dense(B)
    assert_close(dense(A @ B), a @ b)
    assert_close(dense(A @ x).ravel(), a @ dense(x).ravel())
    assert_close(dense(y @ A).ravel(), dense(y).ravel() @ a)
    assert_close(y.dot(A @ x), np.vdot(dense(y), a @ dense(x).ravel()))  # a bilinear form
    vectors = draw((2, 3, a.shape[1]), 5, dtype)
    assert_close(A @ array(vectors), vectors @ a.T)
    assert_close(array(draw((4, a.shape[0]), 6, dtype)) @ A, draw((4, a.shape[0]), 6, dtype) @ a)
    assert_close((A @ B).trace(), np.trace(a @ b))
    assert_close(dense(A.T), a.T)
    assert_close(dense(A.H), a.conj().T)
    assert_close(A.dot(A), np.vdot(a, a))
    assert_close(A.norm(), np.linalg.norm(a))
    assert_close(dense(A + 2 * A.conj()), a + 2 * a.conj())
    assert_close(dense(A * A), a * a)


@pytest.mark.parametrize(("rows", "cols"), PAIRS, ids=str)
def test_entries_of_matrices_and_their_trains(rows, cols, array):
    A = matrix(rows, cols, 3, array=array)
    a = dense(A)
    for i, j in ((0, 0), (a.shape[0] - 1, a.shape[1] - 1), (-1, 0), (1, -2)):
        assert_close(A[i, j], a[i, j])
    back = ttlib.TTMatrix.from_tensor_train(A.to_tensor_train(), row_shape=rows, col_shape=cols)
    assert_close(dense(back), a)


def test_the_identity_changes_nothing(array):
    like = array(np.zeros(1))
    eye, x = ttlib.eye((3, 4), like=like), train((3, 4), 2, array=array)
    assert_close(dense(eye), np.eye(12))
    assert_close(dense(eye @ x), dense(x))
    assert float(eye.trace()) == 12
    A = matrix((3, 4), (2, 5), 3, array=array)
    assert_close(dense(eye @ A), dense(A))


def test_a_product_with_no_vectors_has_no_rows(array):
    A = matrix((2, 3), (4, 5), 2, array=array)
    assert tuple((A @ array(np.zeros((0, 20)))).shape) == (0, 6)
    assert tuple((array(np.zeros((0, 6))) @ A).shape) == (0, 20)
    assert tuple((A @ array(np.zeros((2, 0, 20)))).shape) == (2, 0, 6)


def test_decomposed_matrices_multiply_like_the_originals():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((12, 20)), rng.standard_normal((20, 6))
    A = ttlib.decompose_matrix(a, row_shape=(3, 4), col_shape=(4, 5))
    B = ttlib.decompose_matrix(b, row_shape=(4, 5), col_shape=(2, 3))
    assert_close(dense((A @ B).round(eps=1e-13)), a @ b, 1e-11)


# Numbers beside trains


@pytest.mark.parametrize(
    "number", [3, 3.0, np.float32(3), np.int8(3), np.uint8(3), np.uint64(3), np.array(3, np.uint8)]
)
def test_every_kind_of_number_acts_as_its_value(number, array):
    tt = train((3, 4), 2, array=array)
    x = dense(tt)
    assert_close(dense(tt - number), x - 3.0)
    assert_close(dense(number - tt), 3.0 - x)
    assert_close(dense(tt + number), x + 3.0)
    assert_close(dense(tt * number), x * 3.0)
    assert_close(dense(tt / number), x / 3.0)
    assert dense(tt - number).dtype == np.float64


@pytest.mark.parametrize("number", [torch.tensor(3.0), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)], ids=str)
def test_every_kind_of_torch_number_acts_as_its_value(number):
    tt = train((3, 4), 2, array=LIBRARIES["torch"])
    x = dense(tt)
    assert_close(dense(tt - number), x - 3.0)
    assert_close(dense(number - tt), 3.0 - x)
    assert_close(dense(number * tt / number), x)
    assert (tt - number).dtype == torch.float64


def test_the_sum_of_a_list_has_the_ranks_of_its_terms():
    """sum() starts from 0, which is no term."""
    a, b = train((3, 4, 5), 2, seed=1), train((3, 4, 5), 1, seed=2)
    assert_close(dense(sum([a, b])), dense(a) + dense(b))
    assert sum([a, b]).ranks == (a + b).ranks


# Validation


@pytest.mark.parametrize(
    ("cores", "error"),
    [
        ([np.ones((1, 3, 2)), np.ones((3, 4, 1))], ttlib.RankError),
        ([np.ones((2, 3, 2)), np.ones((2, 4, 1))], ttlib.RankError),
        ([np.ones((1, 3, 2)), np.ones((2, 4, 2))], ttlib.RankError),
        ([np.ones((1, 3)), np.ones((3, 4, 1))], ttlib.ShapeError),
        ([np.ones((1, 3, 4, 1))], ttlib.ShapeError),
        ([np.ones((1, 3, 0)), np.ones((0, 4, 1))], ttlib.ShapeError),
        ([], ttlib.ShapeError),
        ([np.ones((1, 3, 1), np.float32), np.ones((1, 3, 1))], ttlib.BackendError),
        ([np.ones((1, 3, 1), bool)], ttlib.BackendError),
        ([np.ones((1, 3, 1), object)], ttlib.BackendError),
        ([np.full((1, 3, 1), "a")], ttlib.BackendError),
        ([torch.ones((1, 3, 1), dtype=torch.bool)], ttlib.BackendError),
        (None, ttlib.ShapeError),
        ([None], ttlib.BackendError),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_cores_that_form_no_train_are_refused(cores, error):
    with pytest.raises(error, match="core|train|arrays"):
        ttlib.TensorTrain(cores)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8"])
def test_cores_of_integers_become_floating_or_are_refused(dtype, array):
    """Half of a train of integers is not a train of zeros."""
    cores = [array(np.ones((1, 3, 2), dtype)), array(np.ones((2, 4, 1), dtype))]
    try:
        tt = ttlib.TensorTrain(cores)
    except ttlib.BackendError as refusal:
        assert dtype in str(refusal)  # noqa: PT017  # either outcome is sound
        return
    assert_close(dense(tt * 0.5), np.ones((3, 4)))
    assert_close(dense(tt.round()), np.full((3, 4), 2.0))
    assert_close(dense(tt.left_orthogonal()), np.full((3, 4), 2.0))


def test_extended_precision_cores_are_right_or_refused_by_name():
    with pytest.raises(ttlib.BackendError, match="longdouble|float128"):
        ttlib.TensorTrain([np.ones((1, 3, 1), np.longdouble)])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tt: tt[::0], ttlib.TTError, "step"),
        (lambda tt: tt[1.0:], ttlib.TTError, "1.0"),
        (lambda tt: tt["a"], ttlib.BackendError, "'a'"),
        (lambda tt: tt[None], ttlib.BackendError, "None"),
        (lambda tt: tt[True], ttlib.BackendError, "True"),
        (lambda tt: tt[torch.tensor(True)], ttlib.BackendError, "True"),
        (lambda tt: tt[np.True_], ttlib.BackendError, "True"),
        (lambda tt: tt[[0, 1]], ttlib.BackendError, "elements"),
        (lambda tt: tt[3:3], ttlib.ShapeError, "empty"),
        (lambda tt: tt[::-1], ttlib.ShapeError, "backwards"),
        (lambda tt: tt[0, 0, 0, 0], ttlib.ShapeError, "too many"),
        (lambda tt: tt[..., 0, ...], ttlib.ShapeError, "too many"),
        (lambda tt: tt[3], ttlib.ShapeError, "out of range"),
        (lambda tt: tt[-4], ttlib.ShapeError, "out of range"),
        (lambda tt: tt[10**30], ttlib.ShapeError, "out of range"),
        (lambda tt: tt.elements([[1], [1, 2]]), ttlib.TTError, "indices"),
        (lambda tt: tt.elements([["a", "b", "c"]]), ttlib.BackendError, "integers"),
        (lambda tt: tt.elements(None), ttlib.TTError, "indices"),
        (lambda tt: tt.elements([[0, 0, 5]]), ttlib.ShapeError, "index 5 in row 0 is out of range for mode 2"),
        (lambda tt: tt.elements([[0, -5, 0]]), ttlib.ShapeError, "index -5 in row 0 is out of range for mode 1"),
        (lambda tt: tt.elements(np.array([[0, 0, 2**63]], np.uint64)), ttlib.ShapeError, "out of range for mode 2"),
        (lambda tt: tt.elements([[0, 0]]), ttlib.ShapeError, r"\(B, 3\)"),
        (lambda tt: tt.sum(axis=3), ttlib.ShapeError, "out of range"),
        (lambda tt: tt.sum(axis=(0, -3)), ttlib.ShapeError, "twice"),
        (lambda tt: tt.orthogonal(True), ttlib.ShapeError, "centre"),
        (lambda tt: tt.dot(np.ones((3, 4, 5))), ttlib.BackendError, "ndarray"),
        (lambda tt: tt + ttlib.ones((3, 4)), ttlib.ShapeError, "modes"),
        (lambda tt: tt * ttlib.ones((3, 4, 5), like=torch.zeros(1)), ttlib.BackendError, "torch"),
        (lambda tt: tt.to(dtype="int32"), ttlib.BackendError, "int32"),
        (lambda tt: tt.to(dtype="nonsense"), ttlib.BackendError, "nonsense"),
        (lambda tt: tt.to(like=[1.0]), ttlib.BackendError, "list"),
        (lambda tt: ttlib.round_sum(tt, ranks=2), ttlib.TTError, "terms|trains|TensorTrain"),
        (lambda tt: ttlib.round_sum([np.ones(3)], ranks=2), ttlib.BackendError, "ndarray"),
        (lambda tt: ttlib.round_sum([], ranks=2), ttlib.ShapeError, "no terms"),
        (lambda tt: ttlib.random((2, 2), ranks=1, std="a"), ttlib.TTError, "std.*'a'"),
        (lambda tt: ttlib.random((2, 2), ranks=1, std=-1.0), ttlib.RankError, "std"),
        (lambda tt: ttlib.rank_one([]), ttlib.ShapeError, "core|vector"),
        (lambda tt: ttlib.rank_one([np.ones((2, 2))]), ttlib.ShapeError, "vector 0"),
        (lambda tt: ttlib.TTMatrix.from_tensor_train(np.ones(3), row_shape=[3], col_shape=[1]), ttlib.BackendError, "ndarray"),
        (lambda tt: ttlib.ones(()), ttlib.ShapeError, "at least one mode"),
        (lambda tt: ttlib.ones((3,), like="numpy"), ttlib.BackendError, "str"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(ttlib.random((3, 4, 5), ranks=2, seed=0))


def test_walking_over_a_train_gives_its_slices_or_is_refused():
    """Python walks over anything that has brackets, and stops at an IndexError only."""
    tt = ttlib.random((3, 4, 5), ranks=2, seed=0)
    try:
        slices = list(tt)
    except TypeError as refusal:
        assert "iter" in str(refusal)  # noqa: PT017  # either outcome is sound
        return
    assert [part.shape for part in slices] == [(4, 5)] * 3


def test_a_train_can_be_seen_as_one_row_or_one_column(array):
    tt = train((3, 4), 2, array=array)
    for rows, cols in ((1, 12), (12, 1), (3, 4)):
        u, v = tt.factor_pair(rows, cols)
        assert_close(u @ v, dense(tt).reshape(rows, cols))
