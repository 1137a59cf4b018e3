"""A budget over many weights: against brute force, and against the error that ttlib.decompose makes of it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ttlib
from ttlib.checkpoint.bond_spectrum import BondSpectrum
from ttlib.checkpoint.budget import Choice, allocate, curve
from ttlib.errors import RankError


def spectra_of(W, shapes):
    found = {}
    for shape in shapes:
        for k in range(1, len(shape)):
            left = math.prod(shape[:k])
            values = np.linalg.svd(W.reshape(left, -1), compute_uv=False)
            found[left] = BondSpectrum(left, W.size // left, tuple(map(float, values)))
    return found


def decaying(rows, cols, power, seed=0):
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    V, _ = np.linalg.qr(rng.standard_normal((cols, cols)))
    n = min(rows, cols)
    return (U[:, :n] * np.arange(1.0, n + 1) ** -power) @ V[:, :n].T


SHAPES = [(16, 24), (4, 4, 4, 6)]


@pytest.fixture(scope="module")
def curves():
    weights = {f"w{k}": decaying(16, 24, power, k) for k, power in enumerate((0.2, 1.0, 2.0))}
    return weights, {
        name: curve(W.size, float(np.linalg.norm(W)), SHAPES, spectra_of(W, SHAPES)) for name, W in weights.items()
    }


def test_a_curve_falls_from_the_smallest_train_to_the_dense_matrix(curves):
    for ways in curves[1].values():
        assert ways[-1] == Choice(16 * 24, 0.0)
        assert ways[0].ranks is not None
        slopes = [(a.error**2 - b.error**2) / (b.parameters - a.parameters) for a, b in itertools.pairwise(ways)]
        assert all(slope > 0 for slope in slopes)
        assert slopes == sorted(slopes, reverse=True)


def test_its_errors_are_kept_by_the_decomposition(curves):
    weights, found = curves
    for name, ways in found.items():
        for way in ways[:-1]:
            train, report = ttlib.decompose(weights[name], shape=way.shape, ranks=way.ranks, return_report=True)
            assert train.parameters <= way.parameters
            assert report.relative_error <= way.error * (1 + 1e-9)


def test_no_other_choice_of_the_points_is_better_where_a_step_ends(curves):
    _, found = curves
    sizes = dict.fromkeys(found, 16 * 24)
    short = {name: ways[::4] if ways[-1] in ways[::4] else (*ways[::4], ways[-1]) for name, ways in found.items()}
    for point in allocate(short, sizes, parameters=3 * 16 * 24).pareto:
        chosen = allocate(short, sizes, parameters=point.parameters)
        assert chosen.parameters <= point.parameters
        lost = sum(choice.error**2 for choice in chosen.choices.values())
        best = min(
            sum(choice.error**2 for choice in choices)
            for choices in itertools.product(*short.values())
            if sum(choice.parameters for choice in choices) <= point.parameters
        )
        assert lost <= best * (1 + 1e-9) + 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(60, 3 * 16 * 24 + 50))
def test_a_budget_is_kept_and_more_of_it_never_costs_error(curves, budget):
    _, found = curves
    sizes = dict.fromkeys(found, 16 * 24)
    least = sum(ways[0].parameters for ways in found.values())
    if budget < least:
        with pytest.raises(RankError, match=f"need {least} parameters at the smallest ranks, the budget leaves them"):
            allocate(found, sizes, parameters=budget)
        return
    small, large = (allocate(found, sizes, parameters=budget + more) for more in (0, 200))
    assert small.parameters <= budget

    def lost(chosen):
        return sum(choice.error**2 for choice in chosen.choices.values())

    assert lost(large) <= lost(small) + 1e-12
    assert small.pareto[0].parameters == least
    assert small.pareto[-1].error == pytest.approx(0.0, abs=1e-7)
    assert small.pareto[-1].parameters == 3 * 16 * 24


def test_the_easier_weight_gives_way_first(curves):
    _, found = curves
    chosen = allocate(found, dict.fromkeys(found, 16 * 24), parameters=2 * 16 * 24).choices
    assert chosen["w0"].parameters > chosen["w1"].parameters > chosen["w2"].parameters


def test_a_zero_weight_costs_as_little_as_can_be():
    W = np.zeros((16, 24))
    (way,) = curve(W.size, 0.0, SHAPES, spectra_of(W, SHAPES))
    assert way == Choice(18, 0.0, (4, 4, 4, 6), (1, 1, 1, 1, 1))


def test_where_no_train_is_smaller_the_matrix_stays():
    W = np.ones((2, 2))
    assert curve(4, 2.0, [(2, 2)], spectra_of(W, [(2, 2)])) == (Choice(4, 0.0),)


def test_an_incomplete_spectrum_ends_its_curve_where_it_is_known():
    W = decaying(64, 64, 1.0)
    values = np.linalg.svd(W, compute_uv=False)
    rest = float(np.linalg.norm(values[3:]))
    spectra = {64: BondSpectrum(64, 64, tuple(map(float, values[:3])), rest=rest, rest_low=rest)}
    ways = curve(W.size, float(np.linalg.norm(W)), [(64, 64)], spectra)
    assert all(way.ranks is None or way.ranks[1] <= 3 for way in ways)
    train_errors = [way.error for way in ways if way.ranks]
    assert min(train_errors) == pytest.approx(rest / np.linalg.norm(W))
