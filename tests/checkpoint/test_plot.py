"""What is drawn is read back from the Axes and compared with numpy, with `clip_ranks` and with the plan."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import ttlib
from ttlib import plot
from ttlib.errors import BackendError, NonFiniteError, RankError, ShapeError
from ttlib.plot.style import compact


def matrix(rows=24, cols=16, decay=0.7, seed=0):
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, cols)))
    right, _ = np.linalg.qr(rng.standard_normal((cols, cols)))
    return (left * decay ** np.arange(cols)) @ right


def written(ax):
    """Render the whole figure: what cannot be drawn shows only now."""
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    return ax


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def line(ax, label):
    (found,) = (own for own in ax.get_lines() if own.get_label() == label)
    return found


def plan(shape=(4, 4, 6), split=2, **options):
    return ttlib.plan(list(shape), split=split, ranks=3, tokens=16, **options)


DRAWN = {
    "spectrum": lambda ax: plot.spectrum([[3.0, 1.0], [2.0, 0.5, 0.1]], ranks=1, ax=ax),
    "rank_profile": lambda ax: plot.rank_profile(2, shape=[3, 4, 5], ax=ax),
    "pareto": lambda ax: plot.pareto([(10, 0.5, "a"), (20, 0.1), (30, 0.4)], ax=ax),
    "contraction_tree": lambda ax: plot.contraction_tree(plan(), ax=ax),
    "heat_map": lambda ax: plot.heat_map({(0, "q"): 1, (1, "k"): 2}, ax=ax),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
class TestEveryPicture:
    def test_draws_into_the_axes_that_it_is_given(self, draw):
        figure = Figure()
        left, right = figure.subplots(1, 2)
        assert draw(right) is right
        assert not left.has_data()
        written(right)

    def test_makes_a_figure_that_pyplot_does_not_know(self, draw):
        written(draw(None))
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()

    def test_leaves_the_canvas_and_the_settings_alone(self, draw):
        import matplotlib as mpl

        before, figure = dict(mpl.rcParams), Figure()
        canvas = figure.canvas
        draw(figure.subplots())
        assert figure.canvas is canvas
        assert dict(mpl.rcParams) == before

    def test_nothing_leaves_the_figure(self, draw):
        ax = draw(None)
        ax.figure.draw_without_rendering()
        width, height = ax.figure.canvas.get_width_height()
        box = ax.get_tightbbox()  # with all that is written
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1

    def test_refuses_what_are_no_axes(self, draw):
        with pytest.raises(BackendError, match=r"ax must be a matplotlib Axes, got Figure: pass"):
            draw(Figure())


class TestSpectrum:
    def test_a_train_shows_the_singular_values_of_its_unfoldings(self):
        dense = matrix().reshape(4, 6, 16)
        ax = written(plot.spectrum(ttlib.decompose(dense)))
        for bond, rows in ((1, 4), (2, 24)):
            drawn = line(ax, f"bond {bond}")
            expected = np.linalg.svd(dense.reshape(rows, -1), compute_uv=False)
            np.testing.assert_allclose(drawn.get_ydata(), expected[: len(drawn.get_ydata())], atol=1e-12)
            assert drawn.get_xdata().tolist() == list(range(1, len(drawn.get_ydata()) + 1))
        assert ax.get_yscale() == "log"
        assert {"bond 1", "bond 2"} <= set(texts(ax))

    def test_a_matrix_train_and_torch(self):
        tt = ttlib.random((2, 3, 2), ranks=2, seed=0)
        square = ttlib.TTMatrix.from_tensor_train(
            ttlib.random((4, 9, 4), ranks=2, seed=1), row_shape=(2, 3, 2), col_shape=(2, 3, 2)
        )
        for value in (tt, tt.to(like=torch.zeros(1, dtype=torch.float32)), square):
            ax = plot.spectrum(value)
            for k, values in enumerate(value.singular_values(), 1):
                np.testing.assert_array_equal(line(ax, f"bond {k}").get_ydata(), values)

    def test_a_report_is_cut_at_its_ranks(self):
        _, report = ttlib.decompose(matrix(), shape=(4, 6, 16), ranks=3, return_report=True)
        rows = plot.spectrum_rows(report)
        for k in (1, 2):
            own = [row for row in rows if row.bond == f"bond {k}"]
            assert [row.value for row in own] == report.singular_values[k - 1].tolist()
            assert sum(row.kept for row in own) == report.ranks[k] == 3
        ax = written(plot.spectrum(report))
        assert line(ax, "rank").get_xdata()[0] == 3.5
        assert "rank 3" in texts(ax)
        assert any(text.startswith("bond 2: 3 of") for text in texts(ax))

    @settings(max_examples=25)
    @given(st.floats(1e-6, 0.9), st.floats(0.2, 0.95), st.integers(-200, 200))
    def test_the_tolerance_keeps_what_tt_svd_keeps(self, eps, decay, power):
        values = 10.0**power * decay ** np.arange(12)
        norm = np.linalg.norm(decay ** np.arange(12))
        tails = [np.linalg.norm(decay ** np.arange(rank, 12)) for rank in range(1, 13)]
        if min(abs(tail - eps * norm / np.sqrt(2)) for tail in tails) < 1e-9 * norm:
            return  # either side would be right
        expected = next(rank for rank, tail in enumerate(tails, 1) if tail <= eps * norm / np.sqrt(2))
        rows = plot.spectrum_rows([values, values[::-1]], eps=eps)
        assert [sum(row.kept for row in rows if row.bond == name) for name in ("bond 1", "bond 2")] == [expected] * 2

    def test_the_tolerance_is_a_line(self):
        ax = written(plot.spectrum({"a": [4.0, 3.0], "b": [5.0]}, eps=0.5))
        assert line(ax, "tolerance").get_ydata()[0] == pytest.approx(0.5 * 5 / np.sqrt(2))
        assert "eps 0.5" in texts(ax)

    def test_a_cap_wins_over_the_tolerance(self):
        rows = plot.spectrum_rows([1.0, 0.9, 0.8], ranks=2, eps=1e-9)
        assert [row.kept for row in rows] == [True, True, False]

    def test_unknown_values_count(self):
        @dataclasses.dataclass
        class Partial:
            values: tuple[float, ...]
            residual: float

        known, unknown = [3.0, 2.0, 1e-3], Partial((3.0, 2.0, 1e-3), residual=4.0)
        assert sum(row.kept for row in plot.spectrum_rows({"W": known}, eps=0.1)) == 2
        assert sum(row.kept for row in plot.spectrum_rows({"W": unknown}, eps=0.1)) == 3
        assert "W: 3 of 3+" in texts(plot.spectrum({"W": unknown}, eps=0.1))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
    def test_plain_values_of_every_dtype_read_only_and_strided(self, dtype):
        values = np.arange(12, 0, -1).astype(dtype)[::2]
        values.flags.writeable = False
        before = values.copy()
        ax = plot.spectrum(values)
        np.testing.assert_array_equal(line(ax, "bond 1").get_ydata(), before)
        np.testing.assert_array_equal(values, before)

    def test_many_bonds_have_a_colour_bar(self):
        tt = ttlib.random((2,) * 24, ranks=4, seed=0)
        ax = written(plot.spectrum(tt, ranks=2))
        assert len({line(ax, f"bond {k}").get_color() for k in range(1, 24)}) == 23
        assert ax.figure.axes[1].get_ylabel() == "bond"

    def test_zeros_have_a_tick(self):
        ax = written(plot.spectrum({"a": [2.0, 1.0, 0.0]}))
        assert line(ax, "a").get_ydata().tolist() == [2.0, 1.0, 0.0]
        assert ax.get_yscale() == "symlog"
        assert ax.get_ylim()[0] <= 0
        assert "0" in [tick.get_text() for tick in ax.get_yticklabels()]

    def test_a_zero_tensor_ones_and_one_core(self):
        ax = written(plot.spectrum(ttlib.zeros((3, 4)), eps=0.1))
        assert line(ax, "bond 1").get_ydata().tolist() == [0.0]
        written(plot.spectrum(ttlib.ones((3, 4, 5))))
        assert texts(written(plot.spectrum(ttlib.ones((5,))))) == ["there is no bond"]

    @pytest.mark.parametrize(
        ("source", "options", "error", "said"),
        [
            ("abc", {}, BackendError, "spectrum takes a train, a report or singular values, got str"),
            (3.0, {}, BackendError, "got float"),
            (np.float64(3.0), {}, ShapeError, r"got shape \(\)"),
            ({"a": ["x"]}, {}, BackendError, "the singular values of a must be real numbers"),
            ({"a": [1j]}, {}, BackendError, "must be real numbers, got .1j."),
            ({"a": [True]}, {}, BackendError, "must be real numbers, got .True."),
            ({"a": [[1.0], [2.0]]}, {}, ShapeError, r"one row .* got shape \(2, 1\)"),
            ({"a": []}, {}, ShapeError, r"got shape \(0,\)"),
            ([1.0, np.nan, np.inf], {}, NonFiniteError, "2 value.s. that are NaN or infinite, the first at 1"),
            ([1.0, -2.0], {}, ValueError, "must not be negative, got -2 at 1"),
            ([2.0, 1.0], {"ranks": 0}, RankError, "integers >= 1, got 0"),
            ([2.0, 1.0], {"ranks": [1, 2]}, RankError, r"ranks \(1, 2\) has 2 entries for 1 bond"),
            ([2.0, 1.0], {"eps": 2}, RankError, "from 0 to 1"),
            ([2.0, 1.0], {"eps": np.nan}, RankError, "from 0 to 1"),
        ],
    )
    def test_refuses(self, source, options, error, said):
        with pytest.raises(error, match=said):
            plot.spectrum(source, **options)

    def test_refuses_a_train_with_nan(self):
        with pytest.raises(NonFiniteError, match="non-finite"):
            plot.spectrum(ttlib.TensorTrain((np.full((1, 2, 1), np.nan), np.ones((1, 2, 1)))))


SHAPES = st.lists(st.integers(1, 9), min_size=2, max_size=8).map(tuple)


class TestRankProfile:
    @settings(max_examples=8)  # each one draws
    @given(SHAPES, st.integers(1, 30))
    def test_bars_are_the_ranks_and_the_largest(self, shape, rank):
        largest, ranks = plot.rank_profile(rank, shape=shape).containers
        tops = [bar.get_y() + bar.get_height() for bar in largest]
        np.testing.assert_allclose(tops, ttlib.clip_ranks(shape, 10**9)[1:-1])
        np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in ranks], rank)

    def test_every_kind_of_source(self):
        tt, report = ttlib.decompose(matrix(), shape=(4, 6, 16), ranks=3, return_report=True)
        rows = plot.rank_rows(tt)
        assert rows == plot.rank_rows(report) == plot.rank_rows(tt.ranks, shape=tt.shape)
        assert rows == plot.rank_rows([3, 3], shape=np.array([4, 6, 16]))
        assert [row.largest for row in rows] == [4, 16]

    def test_a_matrix_has_its_modes_multiplied(self):
        (row,) = plot.rank_rows(ttlib.eye((3, 4)))
        assert row == plot.RankRow(bond=1, left_mode=9, right_mode=16, rank=1, largest=9)

    def test_redundant_ranks_are_said(self):
        ax = written(plot.rank_profile(20, shape=(4, 8, 4)))
        assert "more than the shape can carry" in ax.get_title(loc="right")
        assert not written(plot.rank_profile(4, shape=(4, 8, 4))).get_title(loc="right")

    def test_many_bonds_ranks_of_one_and_one_core(self):
        written(plot.rank_profile(8, shape=(2,) * 24))
        written(plot.rank_profile(1, shape=(1, 1, 1)))
        written(plot.rank_profile(5, shape=(10**9, 10**9)))
        assert texts(written(plot.rank_profile(3, shape=[7]))) == ["there is no bond"]

    @pytest.mark.parametrize(
        ("source", "shape", "error", "said"),
        [
            (5, None, ShapeError, "ranks 5 alone .*give shape="),
            (5, "abc", ShapeError, "shape must be a list"),
            (5, [4, 0], ShapeError, "mode 1 of shape"),
            (0, [4, 4], RankError, "integers >= 1, got 0"),
            ([2, 3, 4, 5], [4, 4], RankError, "1 inner bonds"),
            ("five", [4, 4], RankError, "of type str"),
        ],
    )
    def test_refuses(self, source, shape, error, said):
        with pytest.raises(error, match=said):
            plot.rank_profile(source, shape=shape)

    def test_refuses_a_shape_beside_a_train(self):
        with pytest.raises(ShapeError, match="has its own: leave it out"):
            plot.rank_profile(ttlib.ones((2, 3)), shape=(2, 3))


POINTS = st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0])), min_size=1, max_size=20)


class TestPareto:
    @settings(max_examples=40)
    @given(POINTS)
    def test_the_front_is_what_no_other_point_beats(self, points):
        rows = plot.pareto_rows(points)
        assert sorted((row.parameters, row.error) for row in rows) == sorted(points)

        def beaten(own):
            return any(p <= own[0] and e <= own[1] and (p, e) != own for p, e in points)

        expected = sorted({own for own in points if not beaten(own)})
        assert [(row.parameters, row.error) for row in rows if row.on_front] == expected

    def test_the_front_is_a_staircase_and_the_rest_is_faint(self):
        ax = written(plot.pareto([(30, 0.4), (10, 0.5, "small"), (20, 0.1)]))
        front = line(ax, "Pareto front")
        assert list(front.get_xdata()) == [10, 20]
        assert list(front.get_ydata()) == [0.5, 0.1]
        assert front.get_drawstyle() == "steps-post"
        (rest,) = (own for own in ax.get_lines() if own is not front)
        assert (list(rest.get_xdata()), rest.get_alpha()) == ([30], 0.25)
        assert "small" in texts(ax)

    def test_series_are_named_at_their_ends(self):
        ax = written(plot.pareto({"SVD": iter([(9, 0.3), (20, 0.1, "r=2")]), "TT": [np.array([5.0, 0.2])]}))
        assert {"SVD, r=2", "TT"} <= set(texts(ax))
        assert line(ax, "SVD").get_color() != line(ax, "TT").get_color()

    def test_an_error_of_zero_is_shown(self):
        ax = written(plot.pareto([(10, 0.1), (20, 0.0)]))
        assert list(line(ax, "Pareto front").get_ydata()) == [0.1, 0.0]
        assert ax.get_ylim()[0] <= 0
        written(plot.pareto([(10, 0.0)]))
        written(plot.pareto([(0, 1.0), (10, 0.5)]))

    def test_one_point_and_many(self):
        written(plot.pareto([(1000, 0.1)]))
        ax = written(plot.pareto([(1000 + k, 0.99**k, f"step {k}") for k in range(200)]))
        assert 2 <= len(texts(ax)) <= 18
        assert {"step 0", "step 199"} <= set(texts(ax))

    @pytest.mark.parametrize(
        ("points", "error", "said"),
        [
            ([], ShapeError, "at least one point"),
            ({}, ShapeError, "at least one point"),
            (5, BackendError, "points must be an iterable"),
            ("ab", BackendError, "got 'ab'"),
            ({"SVD": 5}, BackendError, "series 'SVD' must be an iterable"),
            ([(1,)], ShapeError, r"point 0 of points must be .* got \(1,\)"),
            ([(1, 0.1), 7], ShapeError, "point 1 of points"),
            ({"TT": [(1, "x")]}, BackendError, "point 0 of series 'TT' must be real numbers"),
            ([(1, np.nan)], NonFiniteError, "point 0 of points"),
            ([(-1, 0.5)], ValueError, "must not be negative, got -1"),
        ],
    )
    def test_refuses(self, points, error, said):
        with pytest.raises(error, match=said):
            plot.pareto(points)


STRATEGIES = ("reconstruct", "factors", "cores", "tree")


class TestContractionTree:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("shape", [(4, 6), (4, 4, 6), (2, 3, 2, 3, 2)])
    def test_rows_add_up_to_the_plan(self, shape, strategy):
        own = dataclasses.replace(plan(shape, split=len(shape) // 2), strategy=strategy)
        rows = plot.contraction_rows(own)
        assert sum(row.flops for row in rows) == own.flops
        used = [name for row in rows for name in (row.left, row.right)]
        operands = [*(f"core_{k + 1}" for k in range(len(shape))), "x"]
        assert sorted(used) == sorted([*operands, *(f"step {row.step}" for row in rows[:-1])])
        assert rows[-1].elements == 16 * np.prod(shape[len(shape) // 2 :])

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_the_tree_has_a_dot_for_each_product_and_its_number(self, strategy):
        own = dataclasses.replace(plan((2,) * 24, split=12), strategy=strategy)
        rows = plot.contraction_rows(own)
        ax = written(plot.contraction_tree(own))
        assert len(ax.collections) == len(rows) == 24
        assert texts(ax) == [compact(row.flops) for row in rows]
        assert ax.get_xlabel().startswith(strategy)
        assert sorted(own.get_text() for own in ax.get_xticklabels())[-1] == "x"
        sized = plot.contraction_tree(own, show="elements")
        assert texts(sized) == [compact(row.elements) for row in rows]

    def test_no_two_branches_cross(self):
        """Every node lies over its own operands, and over no others."""
        for strategy in STRATEGIES:
            own = dataclasses.replace(plan((2,) * 9, split=5), strategy=strategy)
            ax = plot.contraction_tree(own)
            places = dict(zip([own.get_text() for own in ax.get_xticklabels()], ax.get_xticks(), strict=True))
            below = {name.partition("\n")[0]: {place} for name, place in places.items()}
            for row in plot.contraction_rows(own):
                left, right = sorted((below[row.left], below[row.right]), key=min)
                assert max(left) < min(right)
                assert right | left == set(np.arange(min(left), max(right) + 1))
                below[f"step {row.step}"] = left | right

    def test_training_shows_the_products_forward(self):
        own = plan(training=True)
        rows = plot.contraction_rows(own)
        assert sum(row.flops for row in rows) < own.flops
        assert "FLOPs forward" in plot.contraction_tree(own).get_xlabel()

    def test_no_tokens(self):
        written(plot.contraction_tree(ttlib.plan([4, 4], split=1, ranks=1, tokens=0)))

    def test_refuses(self):
        with pytest.raises(BackendError, match=r"needs the plan that ttlib.plan\(…\) returns, got list"):
            plot.contraction_tree([])
        with pytest.raises(ValueError, match="show 'bytes' does not exist: choose one of 'flops', 'elements'"):
            plot.contraction_tree(plan(), show="bytes")


class TestHeatMap:
    def test_cells_are_where_they_belong_and_missing_ones_hatched(self):
        values = {(0, "q"): 1.0, (0, "k"): 2.0, (1, "q"): 3, (2, "k"): None}
        ax = written(plot.heat_map(values, label="rank"))
        shown = ax.images[0].get_array()
        np.testing.assert_array_equal(shown.filled(-1), [[1, 2], [3, -1], [-1, -1]])
        hatched = {(patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in ax.patches if patch.get_hatch()}
        assert hatched == {(1, 1), (2, 0), (2, 1)}
        assert [own.get_text() for own in ax.get_yticklabels()] == ["0", "1", "2"]
        assert sorted(texts(ax)) == ["1", "2", "3"]
        assert ax.figure.axes[1].get_ylabel() == "rank"

    def test_wide_ranges_are_coloured_by_logarithms(self):
        wide = plot.heat_map({(0, "q"): 1, (0, "k"): 1000})
        narrow = plot.heat_map({(0, "q"): 0, (0, "k"): 1000})
        assert type(wide.images[0].norm).__name__ == "LogNorm"
        assert type(narrow.images[0].norm).__name__ == "Normalize"

    def test_one_cell_zeros_and_many_layers(self):
        written(plot.heat_map({(0, "q"): 3}))
        written(plot.heat_map({(0, "q"): 0.0}))
        ax = written(plot.heat_map({(layer, name): 0.5 for layer in range(100) for name in "abc"}))
        assert not texts(ax)
        assert len(ax.get_yticks()) <= 40

    @pytest.mark.parametrize(
        ("values", "error", "said"),
        [
            ([1], BackendError, "takes a mapping"),
            ({}, ShapeError, "0 cell"),
            ({(0, "q"): None}, ShapeError, "1 cell.*all of them empty"),
            ({"layer": 1.0}, ShapeError, "pairs .*got 'layer'"),
            ({(0, "q"): "x"}, BackendError, r"the value of \(0, 'q'\) must be real numbers"),
            ({(0, "q"): np.nan}, NonFiniteError, r"the value of \(0, 'q'\)"),
            ({(0, "q"): -1}, ValueError, "must not be negative"),
        ],
    )
    def test_refuses(self, values, error, said):
        with pytest.raises(error, match=said):
            plot.heat_map(values)


def test_without_matplotlib_the_import_says_what_to_install():
    code = "import sys; sys.modules['matplotlib'] = None; import ttlib.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        'ImportError: ttlib.plot draws with matplotlib, which is not installed: pip install "ttlib[plot]"'
        in done.stderr
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (999, "999"), (999.6, "1k"), (1024, "1.02k"), (123_456_789, "123M"), (1e-9, "1e-09"), (1e30, "1e+30")],
)
def test_numbers_in_few_letters(value, said):
    assert compact(value) == said
