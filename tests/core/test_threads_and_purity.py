"""No public function writes to what it is given, shares what it returns, depends on chance or on another thread."""

import hashlib
import importlib
import inspect
import json
import pickle
import pkgutil
import subprocess
import sys
import tempfile
import threading
from copy import copy, deepcopy
from types import ModuleType

import numpy as np
import pytest
import torch

import ttlib
import ttlib.testing

LIBRARIES = {"numpy": np.array, "torch": lambda values: torch.from_numpy(np.array(values))}
SHAPE = (3, 4, 5)


def inputs(array):
    """Every array that the calls below are given, by name; data in [1/2, 1) is not rescaled, so it could be aliased."""
    rng = np.random.default_rng(0)
    values = {
        "tensor": rng.uniform(0.5, 0.99, SHAPE) * rng.choice([-1, 1], SHAPE),
        "other": rng.standard_normal(SHAPE),
        "matrix": rng.standard_normal((6, 20)),
        "vector": rng.uniform(0.5, 0.99, 7),
        "columns": rng.standard_normal((2, 20)),
        "rows": rng.standard_normal((2, 6)),
        "indices": np.array([[0, 1, 2], [-1, -2, 3]]),
        "complex": rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE),
    }
    for k, (left, mode, right) in enumerate([(1, 3, 2), (2, 4, 3), (3, 5, 1)]):
        values[f"a{k}"] = rng.standard_normal((left, mode, right))
        values[f"b{k}"] = rng.standard_normal((left, mode, right))
    for k, (left, rows, cols, right) in enumerate([(1, 2, 4, 2), (2, 3, 5, 1)]):
        values[f"A{k}"] = rng.standard_normal((left, rows, cols, right))
    return {name: array(value) for name, value in values.items()}


class Given:
    """The inputs, and the values made from them without a copy."""

    def __init__(self, array):
        self.arrays = inputs(array)
        self.tt = ttlib.TensorTrain([self.arrays[f"a{k}"] for k in range(3)])
        self.other = ttlib.TensorTrain([self.arrays[f"b{k}"] for k in range(3)])
        self.matrix = ttlib.TTMatrix([self.arrays[f"A{k}"] for k in range(2)])

    def __getitem__(self, name):
        return self.arrays[name]


def saved_and_loaded(tt, *, like):
    with tempfile.TemporaryDirectory() as folder:
        ttlib.save(f"{folder}/tt", tt)
        return ttlib.load(f"{folder}/tt", like=like)


DRIVERS = ("auto", "lapack", "qr", "gram", "sketch")

CALLS = {
    **{f"decompose by {d}": lambda g, d=d: ttlib.decompose(g["tensor"], ranks=2, driver=d) for d in DRIVERS},
    "decompose exactly": lambda g: ttlib.decompose(g["tensor"]),
    "decompose with a tolerance": lambda g: ttlib.decompose(g["tensor"], eps=0.2),
    "decompose with a budget": lambda g: ttlib.decompose(g["tensor"], parameters=40),
    "decompose to another shape": lambda g: ttlib.decompose(g["tensor"], shape=(15, 4), ranks=3),
    "decompose complex numbers": lambda g: ttlib.decompose(g["complex"], ranks=2),
    "decompose a vector": lambda g: ttlib.decompose(g["vector"]),
    "decompose a batch": lambda g: ttlib.decompose_batch([g["tensor"], g["other"]], eps=0.2),
    "decompose a matrix": lambda g: ttlib.decompose_matrix(g["matrix"], row_shape=[2, 3], col_shape=[4, 5], ranks=3),
    "decompose a batch of matrices": lambda g: ttlib.decompose_matrix_batch(
        [g["matrix"], g["matrix"]], row_shape=[2, 3], col_shape=[4, 5], ranks=3
    ),
    "spectral_start": lambda g: ttlib.spectral_start(g["matrix"], shape=[2, 3, 4, 5], ranks=2),
    "rank_one": lambda g: ttlib.rank_one([g["vector"], g["vector"]]),
    "random": lambda g: ttlib.random(SHAPE, ranks=2, seed=0, like=g["tensor"]),
    "random_orthogonal": lambda g: ttlib.random_orthogonal(SHAPE, ranks=2, seed=0, like=g["tensor"]),
    "ones, zeros and eye": lambda g: [make((2, 3), like=g["tensor"]) for make in (ttlib.ones, ttlib.zeros, ttlib.eye)],
    "round": lambda g: (g.tt + g.other).round(ranks=3),
    "round with a tolerance": lambda g: g.tt.round(eps=0.3),
    "round with a budget": lambda g: g.tt.round(parameters=40),
    "round_sum": lambda g: ttlib.round_sum([g.tt, g.other], ranks=2),
    "arithmetic": lambda g: [g.tt + g.other, g.tt - g.other, g.tt * g.other, -g.tt, 2 * g.tt, g.tt / 3, g.tt + 1, 1 - g.tt],
    "complex numbers": lambda g: [g.tt * 1j, (g.tt * 1j).conj(), g.tt.conj()],
    "inner products": lambda g: [g.tt.dot(g.other), g.tt @ g.other, g.tt.norm(), g.tt.log_norm()],
    "kron": lambda g: g.tt.kron(g.other),
    "sum": lambda g: [g.tt.sum(), g.tt.sum(axis=1), g.tt.sum(axis=(0, 2))],
    "index": lambda g: [g.tt[1, 2, 3], g.tt[1:, 0], g.tt[..., ::2]],
    "elements": lambda g: g.tt.elements(g["indices"]),
    "orthogonal": lambda g: [g.tt.left_orthogonal(), g.tt.right_orthogonal(), g.tt.orthogonal(1)],
    "singular_values": lambda g: list(g.tt.singular_values()),
    "dense": lambda g: [g.tt.to_tensor(), g.tt.to_matrix(12, 5), *g.tt.factor_pair(12, 5)],
    "transpose": lambda g: [g.tt.T, g.matrix.T, g.matrix.H],
    "convert": lambda g: [g.tt.to(dtype="float32"), g.tt.to(like=np.zeros(1)), g.tt.to(like=torch.zeros(1))],
    "matrix products": lambda g: [
        g.matrix @ g.matrix.T, g.matrix @ g["columns"], g["rows"] @ g.matrix, g.matrix @ ttlib.ones((4, 5), like=g["tensor"])
    ],
    "matrix to dense": lambda g: [g.matrix.to_matrix(), g.matrix.to_tensor_train(), g.matrix[3, 7]],
    "trace": lambda g: (g.matrix @ g.matrix.T).trace(),
    "matrix arithmetic": lambda g: [g.matrix + g.matrix, g.matrix * 2, g.matrix.norm(), g.matrix.round(ranks=1)],
    "cross": lambda g: ttlib.cross(lambda i: 1 / (1.0 + i.sum(axis=1)), shape=SHAPE, eps=1e-6, like=g["tensor"]),
    "complete": lambda g: ttlib.complete(g["indices"], g["vector"][:2], shape=SHAPE, ranks=1),
    "save and load": lambda g: saved_and_loaded(g.tt, like=g["tensor"]),
    "from_cores": lambda g: ttlib.interop.from_cores(list(g.tt.cores)),
    "measure": lambda g: ttlib.noise_reduction.measure(g.tt, rows=12, cols=5),
    "assert_tt_close": lambda g: ttlib.testing.assert_tt_close(g.tt, g.tt.to_tensor()),
}  # fmt: skip

CASES = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def arrays_of(result):
    """Every array and number in a result, in a fixed order."""
    if isinstance(result, (ttlib.TensorTrain, ttlib.TTMatrix)):
        return list(result.cores)
    if isinstance(result, (list, tuple)):
        return [array for part in result for array in arrays_of(part)]
    if isinstance(result, ttlib.SpectralStart):
        return [*result.train.cores, result.residual, result.share]
    if result is None or isinstance(result, ttlib.noise_reduction.NoiseReport):
        return []
    return [result]


def bytes_of(result):
    return [np.asarray(array).tobytes() for array in arrays_of(result)]


# Purity


@CASES
def test_read_only_arrays_are_enough(call):
    """numpy raises ValueError on any attempt to write to them."""

    def read_only(values):
        values = np.array(values)
        values.flags.writeable = False
        return values

    given, untouched = Given(read_only), inputs(np.array)
    first = bytes_of(call(given))
    for name, array in given.arrays.items():
        np.testing.assert_array_equal(array, untouched[name])
    assert bytes_of(call(given)) == first


@CASES
def test_no_torch_tensor_is_written(call):
    """Its version counts every write, also one that leaves the numbers as they were."""
    given = Given(LIBRARIES["torch"])
    versions = {name: tensor._version for name, tensor in given.arrays.items()}
    kept = {name: tensor.clone() for name, tensor in given.arrays.items()}
    call(given)
    for name, tensor in given.arrays.items():
        assert tensor._version == versions[name], name
        assert torch.equal(tensor, kept[name]), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_callers_lists_are_left_alone(library):
    given = Given(LIBRARIES[library])
    shape, ranks, members, index_rows = [3, 4, 5], [2, 2], [given["tensor"], given["other"]], [[0, 1, 2]]
    ttlib.decompose(given["tensor"], shape=shape, ranks=ranks)
    ttlib.decompose_batch(members, ranks=ranks)
    given.tt.round(ranks=ranks)
    given.tt.elements(index_rows)
    terms = [given.tt, given.other]
    ttlib.round_sum(terms, ranks=ranks)
    assert (shape, ranks, index_rows, len(members), len(terms)) == ([3, 4, 5], [2, 2], [[0, 1, 2]], 2, 2)


# Aliasing: a value stays what it was, whatever its makers do to their own arrays afterwards


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("vector", {}),
        ("vector", {"eps": 0.1}),
        ("vector", {"shape": (1, 7)}),
        ("vector", {"shape": (7, 1)}),
        ("tensor", {}),
        ("tensor", {"ranks": 1}),
        ("complex", {}),
    ],
    ids=str,
)
def test_writing_to_the_input_afterwards_does_not_change_the_train(name, how, library):
    given = Given(LIBRARIES[library])
    tt = ttlib.decompose(given[name], **how)
    before = bytes_of(tt)
    given[name][...] = 7
    assert bytes_of(tt) == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_writing_to_the_vectors_afterwards_does_not_change_a_rank_one_train(library):
    given = Given(LIBRARIES[library])
    tt = ttlib.rank_one([given["vector"], given["vector"]])
    before = bytes_of(tt)
    given["vector"][...] = 7
    assert bytes_of(tt) == before


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "dense",
    [
        lambda tt: tt.to_tensor(),
        lambda tt: tt.to_matrix(7, 1),
        lambda tt: tt.to_matrix(1, 7),
        lambda tt: tt.factor_pair(7, 1)[0],
        lambda tt: ttlib.TTMatrix([tt.cores[0].reshape(1, 7, 1, 1)]).to_matrix(),
        lambda tt: tt.elements([[0], [1]]),
    ],
    ids=["tensor", "column", "row", "factor", "matrix", "elements"],
)
def test_writing_to_the_dense_form_does_not_change_the_train(dense, library):
    tt = ttlib.rank_one([Given(LIBRARIES[library])["vector"]])
    before = bytes_of(tt)
    dense(tt)[...] = 7
    assert bytes_of(tt) == before


@pytest.mark.parametrize(("library", "other"), [("numpy", "torch"), ("torch", "numpy")])
def test_writing_to_a_train_moved_to_another_library_does_not_change_the_one_it_came_from(library, other):
    """Training a converted train in place must not train its origin."""
    given = Given(LIBRARIES[library])
    before = bytes_of(given.tt)
    moved = given.tt.to(like=LIBRARIES[other](np.zeros(1)))
    moved.cores[0][...] = 7
    assert bytes_of(given.tt) == before


def test_a_list_of_cores_may_be_changed_after_it_was_given():
    given = Given(np.array)
    cores = [given["a0"], given["a1"], given["a2"]]
    tt = ttlib.TensorTrain(cores)
    before = bytes_of(tt)
    cores[0] = np.zeros((1, 3, 2))
    del cores[1]
    assert bytes_of(tt) == before
    assert isinstance(tt.cores, tuple)


def test_operations_leave_the_trains_that_they_are_given():
    given = Given(np.array)
    before = bytes_of([given.tt, given.other, given.matrix])
    for call in CALLS.values():
        call(given)
    total = given.tt
    total += given.other
    total *= 2
    assert bytes_of([given.tt, given.other, given.matrix]) == before


@pytest.mark.parametrize("library", LIBRARIES)
def test_trains_are_copied_and_pickled_as_values(library):
    given = Given(LIBRARIES[library])
    for value in (given.tt, given.matrix):
        for twin in (copy(value), deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301
            assert type(twin) is type(value)
            assert bytes_of(twin) == bytes_of(value)
        with pytest.raises(AttributeError):
            value.cores = ()
        with pytest.raises((AttributeError, TypeError)):
            value.note = "there is no room for it"


# Determinism and threads


@pytest.mark.parametrize(("library", "times"), [("numpy", 50), ("torch", 15)])
def test_eight_threads_get_what_one_gets(library, times):
    given = Given(LIBRARIES[library])
    expected = {name: bytes_of(call(given)) for name, call in CALLS.items()}
    differences, start = [], threading.Barrier(8)

    def work(offset):
        names = list(CALLS)
        names = names[offset:] + names[:offset]  # so that different functions meet
        start.wait()
        for _ in range(times):
            for name in names:
                try:
                    if bytes_of(CALLS[name](given)) != expected[name]:
                        differences.append(name)
                except Exception as error:  # a thread may not fail in silence
                    differences.append((name, repr(error)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(4 * k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert differences == []


DIGEST = """
import sys
sys.path.insert(0, {root!r})
import hashlib
from tests.core.test_threads_and_purity import digest
print(digest())
"""


def digest():
    """One number for all results in numpy."""
    given, total = Given(np.array), hashlib.sha256()
    for call in CALLS.values():
        for part in bytes_of(call(given)):
            total.update(part)
    return total.hexdigest()


def test_another_process_with_other_hashes_gets_the_same_bytes(pytestconfig):
    import os

    code, found = DIGEST.format(root=str(pytestconfig.rootpath)), set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        found.add(run.stdout.strip())
    assert found == {digest()}


@pytest.mark.parametrize("make", [ttlib.random, ttlib.random_orthogonal])
def test_a_seed_decides_and_none_does_not(make):
    call = lambda seed: bytes_of(make(SHAPE, ranks=2, seed=seed))  # noqa: E731
    assert call(1) == call(1) != call(2)
    assert call(None) != call(None)
    generator = np.random.default_rng(3)
    assert call(generator) == call(3) != call(generator)  # a generator advances


def test_the_global_random_states_are_neither_read_nor_written():
    given = Given(np.array)
    np.random.seed(0)  # noqa: NPY002  # the state in question
    before, torch_before = np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    first = {name: bytes_of(call(given)) for name, call in CALLS.items()}
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.random.seed(1)  # noqa: NPY002
    assert {name: bytes_of(call(given)) for name, call in CALLS.items()} == first


# Module state


def modules():
    found = [ttlib]
    for info in pkgutil.walk_packages(ttlib.__path__, "ttlib."):
        found.append(importlib.import_module(info.name))  # noqa: PERF401
    return found


def is_constant(name):
    return name.lstrip("_").isupper() or (name.startswith("__") and name.endswith("__"))


def test_modules_hold_no_variables():
    """A list, dict, set or array at module level is a constant by its name, or it is state that threads share."""
    assert len(modules()) > 20
    state = [
        f"{module.__name__}.{name}"
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, (list, dict, set, bytearray, np.ndarray, np.random.Generator)) and not is_constant(name)
    ]
    assert state == []


def test_no_function_rebinds_a_module_global():
    for module in modules():
        assert "\n    global " not in inspect.getsource(module), module.__name__


def constants():
    return {
        f"{module.__name__}.{name}": repr(value)
        for module in modules()
        for name, value in vars(module).items()
        if is_constant(name) and not isinstance(value, ModuleType) and name not in ("__builtins__", "__cached__")
    }


def test_constants_stay_as_they_are():
    before = constants()
    for library in LIBRARIES.values():
        given = Given(library)
        for call in CALLS.values():
            call(given)
    assert constants() == before


IMPORTED = """
import json, sys
import ttlib
tops = {name.partition(".")[0] for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", None) or "")}
tops = {name for name in tops if not name.startswith("_")}  # hooks of the installation itself
print(json.dumps(sorted(tops | {name for name in ("torch", "scipy", "safetensors", "matplotlib", "jax") if name in sys.modules})))
"""


def test_importing_ttlib_loads_its_two_dependencies_and_nothing_else():
    run = subprocess.run([sys.executable, "-W", "error", "-c", IMPORTED], check=True, capture_output=True, text=True)
    # numpy.f2py, which array_api_compat reaches by `from numpy import *`, takes charset_normalizer where it is installed
    assert set(json.loads(run.stdout)) <= {"numpy", "array_api_compat", "ttlib", "charset_normalizer"}


def test_decomposing_numpy_arrays_loads_neither_torch_nor_scipy():
    code = (
        "import sys, numpy as np, ttlib\n"
        "tt = ttlib.decompose(np.arange(24.0).reshape(2, 3, 4), eps=0.1)\n"
        "(tt + tt).round(); tt.norm(); tt.elements([[0, 0, 0]]); ttlib.eye((2, 3)).trace()\n"
        "print([name for name in ('torch', 'scipy', 'safetensors', 'jax') if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
