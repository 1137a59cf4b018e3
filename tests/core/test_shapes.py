"""Integers: factorisation, ranks, counts, shape search; brute force as the oracle."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from ttlib.shapes import factorisations, prime_factors

sizes = st.integers(1, 5000)


@given(sizes, st.integers(1, 7))
def test_factorize_multiplies_back(n, parts):
    modes = ttlib.factorize(n, parts=parts)
    assert math.prod(modes) == n
    assert len(modes) == parts
    assert list(modes) == sorted(modes)


def test_factorize_is_as_even_as_can_be():
    assert ttlib.factorize(768, parts=3) == (8, 8, 12)
    assert ttlib.factorize(4096, parts=4) == (8, 8, 8, 8)
    assert ttlib.factorize(1021, parts=2) == (1, 1021)
    assert ttlib.factorize(1, parts=2) == (1, 1)


@given(st.integers(2, 10**7))
def test_prime_factors_multiply_back_and_are_prime(n):
    factors = prime_factors(n)
    assert math.prod(factors) == n
    assert all(factor % d for factor in factors for d in range(2, min(factor, math.isqrt(factor) + 1)))


@given(st.integers(2, 400), st.integers(1, 5))
def test_factorisations_are_all_there_are(n, parts):
    def descend(rest, smallest, left):
        if rest == 1:
            return {()}
        if left == 0:
            return set()
        return {
            (d, *more) for d in range(smallest, rest + 1) if rest % d == 0 for more in descend(rest // d, d, left - 1)
        }

    assert set(factorisations(n, parts)) == descend(n, 2, parts)


@given(sizes, sizes, st.integers(1, 20))
def test_every_candidate_is_a_valid_aligned_shape(rows, cols, rank):
    for candidate in ttlib.search_shapes(rows, cols, ranks=rank):
        assert math.prod(candidate.shape[: candidate.split]) == rows
        assert math.prod(candidate.shape[candidate.split :]) == cols
        assert candidate.parameters == ttlib.count_parameters(candidate.shape, ranks=candidate.ranks)
        assert candidate.ranks == ttlib.clip_ranks(candidate.shape, rank)
        assert candidate.order == len(candidate.shape) <= 8
        assert candidate.compression == pytest.approx(rows * cols / candidate.parameters)


@pytest.mark.parametrize(("rows", "cols"), [(12, 8), (30, 21), (64, 32), (7, 60), (48, 5), (1, 24), (96, 8)])
@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8, 20])
def test_the_first_candidate_is_the_cheapest_of_all(rows, cols, rank):
    def sides(n):
        return {order for modes in factorisations(n, 7) for order in permutations(modes or (1,))}

    cheapest = min(
        ttlib.count_parameters(left + right, ranks=ttlib.clip_ranks(left + right, rank))
        for left in sides(rows)
        for right in sides(cols)
        if len(left + right) <= 8
    )
    assert ttlib.search_shapes(rows, cols, ranks=rank)[0].parameters == cheapest


@pytest.mark.parametrize(
    ("rows", "cols", "note"),
    [
        (1021, 8, "rows: 1021 is prime and stays one mode"),
        (8, 2 * 1021, "cols: 2042 has the large factor 1021"),
        (10**18 + 9, 64, "no factor below 10**6"),
        (768, 64, ""),
    ],
)
def test_the_search_says_what_stood_in_its_way(rows, cols, note):
    best = ttlib.search_shapes(rows, cols, ranks=5)[0]
    assert note in best.note
    assert bool(note) == bool(best.note)


def test_the_search_survives_highly_composite_and_tiny_sizes():
    assert ttlib.search_shapes(math.factorial(20), 64, ranks=5)
    assert ttlib.search_shapes(1, 1, ranks=5)[0].shape == (1, 1)
    assert ttlib.search_shapes(2, 3, ranks=5)[0].shape == (2, 3)


@given(st.integers(2, 300), st.integers(2, 300), st.integers(2, 7))
def test_a_fixed_order_is_met(rows, cols, order):
    assert all(c.order == order for c in ttlib.search_shapes(rows, cols, ranks=3, order=order))
    assert ttlib.search_shapes(rows, cols, ranks=3, order=order)


def test_find_split():
    assert ttlib.find_split([8, 8, 12, 8, 8], rows=768, cols=64) == 3
    assert ttlib.find_split([8, 8, 12, 8], rows=8, cols=768) == 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 100))
def test_clipped_ranks_are_realisable_and_clipping_is_idempotent(shape, rank):
    ranks = ttlib.clip_ranks(shape, rank)
    for k in range(1, len(shape)):
        assert ranks[k] == min(rank, math.prod(shape[:k]), math.prod(shape[k:]))
    assert ttlib.clip_ranks(shape, ranks) == ranks


def test_counts_take_ranks_as_given():
    assert ttlib.count_parameters([8, 8, 12, 8, 8], ranks=20) == 20 * 16 + 400 * 28
    assert ttlib.count_parameters([8, 8, 12], ranks=[2, 3]) == 16 + 48 + 36
    assert ttlib.count_parameters([7], ranks=5) == 7


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ttlib.factorize(0, parts=2), ttlib.ShapeError, "n must be an integer >= 1, got 0"),
        (lambda: ttlib.factorize(6.0, parts=2), ttlib.ShapeError, "got 6.0"),
        (lambda: ttlib.factorize(6, parts=0), ttlib.ShapeError, "parts must be an integer >= 1, got 0"),
        (lambda: ttlib.search_shapes(0, 8, ranks=5), ttlib.ShapeError, "rows must be an integer >= 1, got 0"),
        (lambda: ttlib.search_shapes(8, "8", ranks=5), ttlib.ShapeError, "cols.*got '8'"),
        (lambda: ttlib.search_shapes(8, 8, ranks=0), ttlib.RankError, "got 0"),
        (lambda: ttlib.search_shapes(8, 8, ranks=[2, 2]), ttlib.RankError, r"one int for ranks.*got \[2, 2\]"),
        (lambda: ttlib.search_shapes(8, 8, ranks=2, order=1), ttlib.ShapeError, "order must be an integer >= 2"),
        (lambda: ttlib.search_shapes(8, 8, ranks=2, top=0), ttlib.ShapeError, "top must be"),
        (lambda: ttlib.find_split([8, 8], rows=8, cols=9), ttlib.ShapeError, "holds 64 entries, a 8 x 9 matrix"),
        (lambda: ttlib.find_split([16, 4], rows=8, cols=8), ttlib.ShapeError, "no mode boundary.*as in"),
        (lambda: ttlib.count_parameters([], ranks=5), ttlib.ShapeError, "at least one mode"),
        (lambda: ttlib.count_parameters([4, 4], ranks=[]), ttlib.RankError, "has 0 entries"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
