from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ttlib
from ttlib.checkpoint.candidates import CandidateShape, candidate_shape, shape_candidates
from ttlib.checkpoint.weight import WeightAnalysis, analyze_weight
from ttlib.errors import BackendError, NonFiniteError, RankError, ShapeError, TTFileError


def weight(rows: int, cols: int, *, decay: float = 1.0, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    random = np.random.default_rng(seed)
    rank = min(rows, cols)
    u, v = (np.linalg.qr(random.standard_normal((n, rank)))[0] for n in (rows, cols))
    return ((u * (1.0 + np.arange(rank)) ** -decay) @ v.T).astype(dtype)


def error_of(matrix: np.ndarray, **how: Any) -> float:
    wide = matrix.astype(np.float64)
    train = ttlib.decompose(wide, **how)
    return float(np.linalg.norm(train.to_matrix(*matrix.shape) - wide) / np.linalg.norm(wide))


@given(
    size=st.sampled_from([(24, 36), (36, 24), (30, 7), (1, 48), (32, 32)]),
    decay=st.sampled_from([0.0, 0.5, 2.0]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    limit=st.sampled_from([4, 1024]),
    seed=st.integers(0, 9),
)
@settings(max_examples=12, deadline=None)
def test_errors_lie_between_the_bounds_and_tolerances_are_kept(
    size: tuple[int, int], decay: float, dtype: str, limit: int, seed: int
) -> None:
    matrix = weight(*size, decay=decay, dtype=dtype, seed=seed)
    found = analyze_weight("w", matrix, ranks=[1, 3, 8], eps=[0.7, 0.3, 0.05], limit=limit, top=2)
    assert [shape.shape for shape in found.shapes] == [c.shape for c in shape_candidates(*size)]
    for shape in found.shapes:
        for at in shape.at_ranks:
            error = error_of(matrix, shape=shape.shape, ranks=at.rank)
            assert at.error_low - 1e-12 <= error <= at.error_high + 1e-12
            assert at.ranks == ttlib.clip_ranks(shape.shape, at.rank)
            assert at.parameters == ttlib.count_parameters(shape.shape, ranks=at.ranks)
            assert at.compression == matrix.size / at.parameters
        for within in shape.at_eps:
            if within.ranks is None:
                assert not found.certified
                continue
            assert error_of(matrix, shape=shape.shape, ranks=within.ranks) <= within.eps
            needed = ttlib.decompose(matrix.astype(np.float64), shape=shape.shape, eps=within.eps, driver="lapack")
            assert all(ours >= theirs for ours, theirs in zip(within.ranks, needed.ranks, strict=True))
            assert within.parameters == ttlib.count_parameters(shape.shape, ranks=within.ranks)
    assert WeightAnalysis.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_matrix_is_known_exactly() -> None:
    matrix = weight(40, 30)
    values = np.linalg.svd(matrix, compute_uv=False)
    shape = analyze_weight("w", matrix, ranks=[7, 100], eps=[0.1]).shapes[0]
    tail = float(np.linalg.norm(values[7:]) / np.linalg.norm(values))
    at, full = shape.at_ranks
    assert at.error_low <= tail <= at.error_high
    assert at.error_high - at.error_low <= 2e-4 * tail
    assert (full.ranks, full.error_low, full.error_high) == ((1, 30, 1), 0.0, 0.0)
    tails = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) / np.linalg.norm(values)
    assert shape.at_eps[0].ranks == (1, int(np.argmax(tails <= 0.1)), 1)


def test_incomplete_spectra_are_said_to_be() -> None:
    matrix = weight(160, 160, decay=0.5, dtype="float32")
    found = analyze_weight("w", matrix, ranks=[4, 40], eps=[0.9, 0.01], limit=40, top=8)
    assert not found.certified
    assert analyze_weight("w", matrix).certified
    plain = found.shapes[0]
    assert [at.ranks is None for at in plain.at_eps] == [False, True]
    assert plain.at_ranks[1].error_low == 0.0  # beyond what is known
    for at in plain.at_ranks:
        assert error_of(matrix, shape=plain.shape, ranks=at.rank) <= at.error_high


def test_flops_are_those_of_the_leanest_strategy() -> None:
    own = candidate_shape([8, 45, 4], rows=24, cols=60)
    found = analyze_weight("w", weight(24, 60), candidates=[own, *shape_candidates(24, 60)], ranks=[2], tokens=64)
    crossing, *aligned = found.shapes
    assert crossing.at_ranks[0].flops is None
    for shape in aligned:
        assert shape.split is not None
        plan = ttlib.plan(shape.shape, split=shape.split, ranks=shape.at_ranks[0].ranks, tokens=64)
        assert shape.at_ranks[0].flops == math.ceil(min(way.flops for way in plan.candidates) / 64)


@pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 7), (6, 4)])
def test_zeros_have_no_error(size: tuple[int, int]) -> None:
    found = analyze_weight("w", np.zeros(size, np.float32))
    assert found.norm == 0.0
    for shape in found.shapes:
        assert all(at.error_high == 0.0 for at in shape.at_ranks)
        assert all(set(at.ranks or ()) == {1} for at in shape.at_eps)


def test_a_shape_of_one_mode_is_the_matrix_itself() -> None:
    found = analyze_weight("w", weight(4, 6), candidates=[CandidateShape((24,), None)], ranks=[3], eps=[0.1])
    assert found.shapes[0].at_ranks[0].error_high == 0.0
    assert found.shapes[0].at_eps[0].ranks == (1, 1)


def test_nothing_is_written_and_numbers_are_said_as_the_checkpoint_does() -> None:
    matrix = weight(24, 36, dtype="float32")
    matrix.flags.writeable = False
    assert analyze_weight("w", matrix).dtype == "float32"
    assert analyze_weight("w", matrix, dtype="bfloat16").dtype == "bfloat16"


def test_same_weight_same_bytes_with_five_digits() -> None:
    matrix = weight(48, 36, dtype="float32")
    texts = {json.dumps(analyze_weight("w", matrix.copy()).to_json()) for _ in range(2)}
    assert len(texts) == 1
    found = json.loads(texts.pop())
    assert found["norm"] == float(f"{found['norm']:.5g}")
    assert all(value == float(f"{value:.5g}") for bond in found["spectra"] for value in bond["values"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ranks": [0]}, RankError, "each of ranks must be an integer >= 1, got 0"),
        ({"eps": [2]}, RankError, "eps must be a number from 0 to 1"),
        ({"tokens": 0}, ShapeError, "tokens must be an integer >= 1, got 0"),
        ({"candidates": [CandidateShape((4, 5), 1)]}, ShapeError, "holds 20 entries but the array holds 24"),
        ({"candidates": [CandidateShape((2, 12), 1)]}, ShapeError, "split 1 of shape .* does not number the 4 rows"),
        ({"candidates": [CandidateShape((4, 6), 2)]}, ShapeError, "split 2 of shape .* does not number the 4 rows"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        analyze_weight("w", np.ones((4, 6)), **options)


def test_refused_matrices() -> None:
    broken = np.ones((4, 6), np.float32)
    broken[1, 2] = np.nan
    with pytest.raises(NonFiniteError, match=r"layer.weight of shape \(4, 6\) has 1 non-finite .* at \(1, 2\)"):
        analyze_weight("layer.weight", broken)
    with pytest.raises(ShapeError, match=r"layer.bias must be a matrix with entries, got shape \(4,\)"):
        analyze_weight("layer.bias", np.ones(4))
    with pytest.raises(ShapeError, match=r"got shape \(0, 4\)"):
        analyze_weight("empty", np.ones((0, 4)))
    with pytest.raises(BackendError, match="positions must be a numpy array of .* got int64"):
        analyze_weight("positions", np.ones((4, 6), np.int64))
    with pytest.raises(BackendError, match="got list"):
        analyze_weight("nothing", [[1.0]])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows",), True, "analysis.rows is True, expected an integer >= 1"),
        (("name",), None, "analysis.name is None, expected text"),
        (("norm",), math.nan, "analysis.norm is nan, expected a finite number >= 0"),
        (("norm",), -1.0, "analysis.norm is -1.0"),
        (("extra",), 1, "the keys of the analysis"),
        (("spectra",), {}, "analysis.spectra is {}, expected a list"),
        (("spectra", 0), [], r"spectra\[0\] is \[\], expected an object"),
        (("spectra", 0, "left"), 5, r"left \* right of spectra\[0\] is 30, expected 24"),
        (("spectra", 0, "values"), [1.0, 2.0], r"spectra\[0\].values is .* descending"),
        (("spectra", 0, "values"), [1.0] * 9, r"spectra\[0\].values is .* at most 4 numbers"),
        (("shapes", 0, "shape"), [4, 5], "modes that multiply to 24"),
        (("shapes", 0, "shape"), [12, 2], r"shapes\[0\].split is 1"),
        (("shapes", 0, "split"), 2, r"shapes\[0\].split is 2"),
        (("shapes", 0, "at_ranks", 0, "ranks"), [1, 2], r"ranks in shapes\[0\] is .* 3 ranks with 1 at both ends"),
        (("shapes", 0, "at_ranks", 0, "flops"), -1, "flops is -1, expected an integer >= 0"),
        (("shapes", 0, "at_eps", 0, "ranks"), [2, 2, 1], "3 ranks with 1 at both ends"),
    ],
)
def test_broken_records_are_refused(path: tuple[Any, ...], value: object, message: str) -> None:
    record = copy.deepcopy(_RECORD)
    place: Any = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(TTFileError, match=f"(?s){message}.*analyse the weight again"):
        WeightAnalysis.from_json(record)


def test_shapes_without_a_spectrum_are_refused() -> None:
    record = copy.deepcopy(_RECORD)
    record["spectra"] = record["spectra"][:1]
    with pytest.raises(TTFileError, match=r"none for left \[2, 8\]"):
        WeightAnalysis.from_json(record)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4))
@example({"name": "w"})
@settings(max_examples=20)
def test_anything_else_is_refused(found: object) -> None:
    with pytest.raises(TTFileError):
        WeightAnalysis.from_json(found)


# Two shapes of a 4 x 6 matrix, with bonds at the left sides 4 and 2, 4, 8.
_RECORD = analyze_weight(
    "w",
    np.arange(24.0).reshape(4, 6),
    candidates=[CandidateShape((4, 6), 1), CandidateShape((2, 2, 2, 3), 2)],
    ranks=[2],
    eps=[0.1],
).to_json()
_RECORD["spectra"].sort(key=lambda bond: bond["left"] != 4)
