from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttlib.checkpoint.candidates import CandidateShape, candidate_shape, shape_candidates
from ttlib.errors import ShapeError
from ttlib.shapes import prime_factors

sides = st.integers(1, 5000)


@given(rows=sides, cols=sides, count=st.integers(1, 6))
def test_candidates_fit_the_matrix_and_differ(rows: int, cols: int, count: int) -> None:
    found = shape_candidates(rows, cols, count=count)
    assert 1 <= len(found) <= count
    assert found[0] == CandidateShape((rows, cols), 1)
    assert len({candidate.shape for candidate in found}) == len({candidate.order for candidate in found}) == len(found)
    for candidate in found:
        assert candidate.split is not None
        assert 0 < candidate.split < candidate.order
        left, right = candidate.shape[: candidate.split], candidate.shape[candidate.split :]
        assert (math.prod(left), math.prod(right)) == (rows, cols)
        assert 1 not in left or left == (1,)
        assert 1 not in right or right == (1,)
        assert candidate.lefts == tuple(math.prod(candidate.shape[:k]) for k in range(1, candidate.order))


@pytest.mark.parametrize(
    ("rows", "cols", "shapes"),
    [
        (384, 384, [(384, 384), (24, 16, 16, 24), (8, 8, 6, 6, 8, 8)]),
        (4096, 4096, [(4096, 4096), (64, 64, 64, 64), (16,) * 6]),
        (30522, 384, [(30522, 384), (5087, 6, 16, 24), (5087, 6, 4, 4, 4, 6)]),
        (1021, 1019, [(1021, 1019)]),
        (1, 64, [(1, 64), (1, 4, 4, 4), (1, 2, 2, 2, 2, 4)]),
        (64, 1, [(64, 1), (4, 4, 4, 1), (4, 2, 2, 2, 2, 1)]),
        (1, 1, [(1, 1)]),
    ],
)
def test_candidates_of_known_sizes(rows: int, cols: int, shapes: list[tuple[int, ...]]) -> None:
    assert [candidate.shape for candidate in shape_candidates(rows, cols)] == shapes


def test_orders_are_tried_in_turn() -> None:
    assert [c.order for c in shape_candidates(64, 64, orders=(5, 3, 4), count=2)] == [5, 3]
    assert shape_candidates(7, 7, orders=(4,)) == ()


def test_modes_are_as_even_as_the_factors_allow() -> None:
    for rows, cols in [(768, 3072), (1536, 384), (11008, 4096)]:
        for candidate in shape_candidates(rows, cols, orders=(4, 6)):
            assert max(candidate.shape) <= max(prime_factors(rows)[-1], 2 * (rows * cols) ** (1 / candidate.order))


def test_own_shape() -> None:
    assert candidate_shape([4, 6, 5], rows=24, cols=5) == CandidateShape((4, 6, 5), 2)
    assert candidate_shape([4, 30], rows=24, cols=5).split is None
    assert candidate_shape([4, 6], rows=24, cols=1).split is None  # no mode is left for the column
    assert candidate_shape([120], rows=24, cols=5).lefts == ()
    with pytest.raises(ShapeError, match="holds 20 entries but the array holds 120"):
        candidate_shape([4, 5], rows=24, cols=5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 3), {}, "rows must be an integer >= 1, got 0"),
        ((3, 2.5), {}, "cols must be an integer >= 1, got 2.5"),
        ((3, 3), {"count": 0}, "count must be an integer >= 1, got 0"),
        ((3, 3), {"orders": [1]}, "each of orders must be an integer >= 2, got 1"),
    ],
)
def test_refused(arguments: tuple[int, int], options: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_candidates(*arguments, **options)
