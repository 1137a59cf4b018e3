"""The figures: what they show is what the lines say, and nothing is cut off, covered or left out in silence."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from benchmarks.paper.cells import Budget, Cell, options
from benchmarks.paper.methods import METHODS
from benchmarks.paper.profile import Profile
from benchmarks.paper.report.aggregate import Evidence, Sample
from benchmarks.paper.report.figures import (
    PLANS,
    draw_all,
    evaluation_loss,
    forgetting,
    initialisation,
    pareto,
    ranks,
    shapes,
    sheet,
    storage,
)
from benchmarks.paper.report.figures.absent import missing
from benchmarks.paper.report.figures.style import METHOD_LOOKS, VARIANT_LOOKS, look
from benchmarks.paper.report.figures.tradeoff import Point, front
from benchmarks.paper.results import Line
from ttlib.plot.labels import Label, place

SEEDS = (0, 1, 2)
OURS = ("loretta-rep", "loretta-adp")
SEQUENCE = ("sst2", "mrpc", "qnli")
SIZES = dict(zip(METHODS, (22_700_000, 74_000, 37_600, 600_000, 80_000, 24_000, 5_500, 37_000, 4_600, 60_000, 16_700,
                           42_000, 9_000, 3_800, 770, 11_000), strict=True))  # fmt: skip


def cells(methods, tasks, settings=({},), **kept):
    return tuple(
        Cell(
            "minilm",
            method,
            task if isinstance(task, tuple) else (task,),
            seed,
            Budget(100),
            1e-3,
            options(**own),
            **kept,
        )
        for method in methods
        for own in settings
        for task in tasks
        for seed in SEEDS
    )


PROFILE = Profile(
    "synthetic",
    "numbers of no model",
    {
        "t1": cells(METHODS, ("sst2", "cola")),
        "t4": cells((*OURS, "lora-8"), (SEQUENCE,)),
        "t6": cells(OURS, ("sst2", "stsb"), [{}, *({"tensor_rank": rank} for rank in (20, 2, 10))]),
        "t7": cells(
            OURS,
            ("sst2", "stsb"),
            [
                {},
                {"tensor_shape": [64, 6, 64]},
                {"tensor_shape": [["384x64", [24, 16, 8, 8]], ["64x384", [8, 8, 16, 24]]]},
            ],
        ),
        "init": cells(OURS, ("sst2",), [{}, *({"init_weights": start} for start in ("zero", "gaussian", "spectral"))]),
        "curves": cells((*OURS, "lora-8", "adapters-64", "full"), ("sst2", "qnli"), curve_every=50),
    },
)
ALL = tuple(dict.fromkeys(cell for study in PROFILE.studies.values() for cell in study))


def outcome(cell, status="finished"):
    """Some numbers that follow from the cell."""
    draw = random.Random(cell.key)  # noqa: S311
    batches = random.Random(cell.seed)  # noqa: S311  # all methods of a seed see the same rows
    start = {"gaussian": 0.3, "zero": 0.05}.get(dict(cell.options).get("init_weights"), 0.0)
    after = [{task: draw.uniform(0.5, 0.9) for task in cell.tasks[:learnt]} for learnt, _ in enumerate(cell.tasks, 1)]
    finished = status == "finished"
    return {
        "status": status,
        "scores": after[-1] if finished else {},
        "after_each": after if len(cell.tasks) > 1 and finished else [],
        "loss": 0.4 if finished else None,
        "losses": [[step, batches.uniform(0, 1) + start / step] for step in (1, *range(2, 101, 2))],
        "curve": [[step, 0.3 + draw.uniform(0, 0.2), 0.8] for step in range(0, 101, 50) if cell.curve_every],
        "parameters": {
            "adapters": SIZES[cell.method],
            "norms": 0,
            "head": 770,
            "body": 0,
            "total": SIZES[cell.method] + 770,
        },
    }


def lines(cells, status="finished"):
    return {cell.key: Line(cell, outcome(cell, status), "0000", {}) for cell in cells}


COMPLETE = lines(ALL)
# some is missing, and seed 0 of two methods diverged
PARTIAL = lines(cell for number, cell in enumerate(ALL) if number % 7 not in (2, 5)) | lines(
    (cell for cell in ALL if cell.seed == 0 and cell.method in ("lora-8", "loretta-rep")), "diverged"
)
DIVERGED = lines(ALL, "diverged")


def study(name, found=COMPLETE, **only):
    whole = Evidence(PROFILE, found).study(name)
    kept = [
        own for own in whole.runs if all(getattr(own.variant, key, own.tasks) == value for key, value in only.items())
    ]
    return type(whole)(name, tuple(kept))


def drawing(name, found=COMPLETE):
    own = study(PLANS[name].study, found)
    return sheet(PLANS[name].panels(own), PLANS[name].layout, missing(own))


def axes():
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


def texts(artist):
    return [text.get_text() for text in artist.findobj(Text) if text.get_visible() and text.get_text()]


def line(ax, label):
    (found,) = (own for own in ax.lines if own.get_label() == label)
    return found.get_xdata(), found.get_ydata()


class TestFiles:
    def test_names_and_places(self, tmp_path):
        costs = {"costs": [{"model": "minilm", "method": name, "file_bytes": 4 * SIZES[name]} for name in METHODS]}
        found = draw_all(PROFILE, {}, tmp_path / "new" / "folder", costs)
        assert set(found) == {*PLANS, "storage"} - {"pareto_language"}  # the profile has no such study
        for name, path in found.items():
            assert path == tmp_path / "new" / "folder" / f"{name}.svg"
            assert path.stat().st_size < 120_000
            assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314  # our own file
        assert {path.name for path in found["pareto"].parent.iterdir()} == {f"{name}.svg" for name in found}

    def test_the_same_lines_give_the_same_bytes_whatever_the_settings_of_the_reader(self, tmp_path):
        small = Profile("small", "", {"t6": PROFILE.studies["t6"]})
        (first,) = draw_all(small, COMPLETE, tmp_path / "first").values()
        with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": None, "lines.linewidth": 9}):
            (again,) = draw_all(small, COMPLETE, tmp_path / "again").values()
            assert mpl.rcParams["font.size"] == 30
        assert first.read_bytes() == again.read_bytes()
        assert b"<dc:date>" not in first.read_bytes()

    def test_an_old_file_is_replaced(self, tmp_path):
        old = tmp_path / "ranks.svg"
        old.write_text("old")
        draw_all(Profile("small", "", {"t6": PROFILE.studies["t6"]}), COMPLETE, tmp_path)
        assert old.read_text().startswith("<?xml")

    def test_a_profile_without_studies_has_no_figures(self, tmp_path):
        assert draw_all(Profile("none", "", {}), {}, tmp_path, {"costs": []}) == {}


@pytest.fixture
def drawn(monkeypatch):
    """All texts that are really drawn, and where: an axis also has ticks that are out of sight."""
    found = []

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            found.append((text, Text.get_window_extent(text, renderer)))

    monkeypatch.setattr(Text, "draw", record)
    return found


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        *((name, found) for name in PLANS if name != "pareto_language" for found in (COMPLETE, PARTIAL)),
        ("initialisation", DIVERGED),
        ("forgetting", {}),
    ],
)
def test_no_text_is_small_cut_or_on_another_one(name, lines, drawn):
    figure = drawing(name, lines)
    drawn.clear()  # laying labels out draws as well
    figure.draw_without_rendering()
    width, height = figure.bbox.max
    assert drawn
    for text, box in drawn:
        inside = min(box.x0, box.y0, width - box.x1, height - box.y1)
        assert inside >= -1, f"{text} is cut off"
        assert text.get_fontsize() >= 9
    for (text, box), (other, another) in combinations(drawn, 2):
        across = min(box.x1, another.x1) - max(box.x0, another.x0)
        down = min(box.y1, another.y1) - max(box.y0, another.y0)
        assert min(across, down) <= 1, f"{text} is on {other}"


class TestMissing:
    def test_nothing_is_said_of_a_complete_study(self):
        said = texts(drawing("curves"))
        assert not any("run" in own or "diverged" in own for own in said)

    def test_an_empty_panel_says_so(self):
        said = texts(drawing("curves", {}))
        assert said.count("not run") == 2

    def test_diverged_and_missing_runs_are_named(self):
        own = PROFILE.studies["curves"]
        found = lines(cell for cell in own if cell.method not in ("full", "adapters-64"))
        found |= lines((cell for cell in own if cell.method == "lora-8" and cell.seed > 0), "diverged")
        found |= lines(cell for cell in own if cell.method == "adapters-64" and cell.tasks == ("qnli",))
        (note,) = [own for own in texts(drawing("curves", found)) if "Diverged" in own]
        assert " ".join(note.split()) == (
            "21 of 30 runs done, 4 of them diverged. Diverged: LoRA r=8 (4 of 6). Not run: adapters 64 on SST-2; "
            f"{METHODS['full'].title}."
        )

    def test_a_panel_without_a_finished_run_says_so(self):
        said = " ".join(" ".join(texts(drawing("ranks", DIVERGED))).split())
        assert said.count("no run has finished with a score") == 2
        assert "(6 of 6)" in said


class TestEvaluationLoss:
    def test_mean_and_band(self):
        part = study("curves", tasks=("sst2",))
        ax = evaluation_loss(part, ax=axes())
        own = part.runs[0]
        losses = np.array([[loss for _, loss, _ in found["curve"]] for found in own.finished.values()])
        steps, means = line(ax, METHODS["loretta-rep"].title)
        assert list(steps) == [0, 50, 100]
        np.testing.assert_allclose(means, losses.mean(axis=0))
        band = ax.findobj(PolyCollection)[0].get_paths()[0].get_extents()
        spread = losses.std(axis=0, ddof=1)
        assert band.y1 == pytest.approx((losses.mean(axis=0) + spread).max())
        assert band.y0 == pytest.approx((losses.mean(axis=0) - spread).min())

    def test_a_diverged_seed_is_not_part_of_the_mean(self):
        own = [cell for cell in PROFILE.studies["curves"] if cell.tasks == ("sst2",) and cell.method == "full"]
        found = lines(own[:2]) | lines(own[2:], "diverged")
        ax = evaluation_loss(study("curves", found, tasks=("sst2",)), ax=axes())
        expected = np.mean([[loss for _, loss, _ in found[cell.key].outcome["curve"]] for cell in own[:2]], axis=0)
        np.testing.assert_allclose(line(ax, METHODS["full"].title)[1], expected)

    def test_a_step_without_a_loss_for_every_seed_is_left_out(self):
        own = [cell for cell in PROFILE.studies["curves"] if cell.tasks == ("sst2",) and cell.method == "full"]
        found = lines(own)
        found[own[0].key].outcome["curve"][1][1] = None
        ax = evaluation_loss(study("curves", found, tasks=("sst2",)), ax=axes())
        assert list(line(ax, METHODS["full"].title)[0]) == [0, 100]

    def test_a_single_seed_has_no_band(self):
        own = [cell for cell in PROFILE.studies["curves"] if cell.seed == 0]
        ax = evaluation_loss(study("curves", lines(own), tasks=("sst2",)), ax=axes())
        assert len(ax.lines) == 5
        assert not any(len(path.vertices) for band in ax.findobj(PolyCollection) for path in band.get_paths())


class TestInitialisation:
    def test_differences_are_free_of_what_the_batches_share(self):
        ax = initialisation(study("init", method="loretta-adp"), ax=axes())
        steps, gaps = line(ax, "gaussian")
        np.testing.assert_allclose(gaps, 0.3 / np.array(steps))
        assert set(line(ax, "residual")[1]) == {0.0}
        assert max(steps) == 50  # the first half

    def test_without_the_default_there_is_nothing_to_compare_with(self):
        found = lines(cell for cell in PROFILE.studies["init"] if cell.options)
        (said,) = texts(initialisation(study("init", found, method="loretta-adp"), ax=axes()))[:1]
        assert "nothing to compare with" in said

    def test_a_start_without_a_seed_in_common_is_named(self):
        kept = {"gaussian": (1, 2), None: (0, 1)}
        found = lines(
            cell
            for cell in PROFILE.studies["init"]
            if cell.seed in kept.get(dict(cell.options).get("init_weights"), (2,))  # zero, spectral: no common seed
        )
        ax = initialisation(study("init", found, method="loretta-adp"), ax=axes())
        assert ax.get_xlabel() == "optimiser steps\nno seed in common with residual: zero, spectral"
        assert len(line(ax, "gaussian")[0]) > 0
        assert len(line(ax, "zero")[0]) == 0

    def test_more_starts_than_looks(self):
        starts = [{}, *({"init_weights": f"start {number}"} for number in range(len(VARIANT_LOOKS) + 2))]
        own = cells(["loretta-adp"], ["sst2"], starts)
        part = Evidence(Profile("many", "", {"init": own}), lines(own)).study("init")
        assert len(initialisation(part, ax=axes()).lines) == len(starts)


class TestForgetting:
    def test_scores_after_each_task(self):
        part = study("t4")
        ax = forgetting(part, "mrpc", ax=axes())
        for own, drawn in zip(part.runs, ax.containers, strict=True):
            scored = [found["after_each"][1:] for found in own.finished.values()]  # it is the second task
            scores = np.array([[stage["mrpc"] for stage in stages] for stages in scored])
            np.testing.assert_allclose(drawn.lines[0].get_ydata().astype(float), 100 * scores.mean(axis=0))
            (whiskers,) = drawn.lines[2]
            heights = [np.ptp(segment[:, 1]) for segment in whiskers.get_segments()]
            np.testing.assert_allclose(heights, 200 * scores.std(axis=0, ddof=1))
        assert [label.get_text() for label in ax.get_xticklabels()] == ["SST-2", "MRPC", "QNLI"]

    def test_a_panel_for_each_task(self):
        figure = drawing("forgetting")
        assert len(figure.axes) == 3
        assert [ax.get_ylabel() for ax in figure.axes] == ["score (%)", "", ""]


class TestSettings:
    def test_ranks_stand_in_order_with_the_default_among_them(self):
        part = study("t6", tasks=("sst2",))
        ax = ranks(part, ax=axes())
        where, means = line(ax, METHODS["loretta-rep"].title)
        assert list(where) == [2, 5, 10, 20]
        default = next(own for own in part.runs if own.variant.method == "loretta-rep" and not own.variant.options)
        assert means[1] == pytest.approx(default.score().mean)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "5", "10", "20"]

    def test_shapes_have_a_row_each_also_those_without_a_score(self):
        own = [cell for cell in PROFILE.studies["t7"] if not cell.options]
        ax = shapes(study("t7", lines(own), tasks=("sst2",)), ax=axes())
        rows = ["proposed by the search", "[64, 6, 64]", "384x64 as [24, 16, 8, 8]\n64x384 as [8, 8, 16, 24]"]
        assert [label.get_text() for label in ax.get_yticklabels()] == 2 * rows
        assert len(ax.containers) == 2


def points():
    scores = st.floats(0, 100).map(lambda value: Sample({0: value}))
    return st.lists(st.builds(Point, st.just(""), st.just(""), st.integers(1, 10**8), scores), min_size=1, max_size=20)


class TestPareto:
    @settings(max_examples=50)
    @given(points())
    def test_the_front_is_what_nothing_beats(self, found):
        best = front(found)
        for left, right in pairwise(best):
            assert left.parameters < right.parameters
            assert left.mean < right.mean
        for own in found:
            beaten = any(
                other.parameters <= own.parameters
                and other.mean >= own.mean
                and (other.parameters, other.mean) != (own.parameters, own.mean)
                for other in found
            )
            assert beaten != ((own.parameters, own.mean) in {(other.parameters, other.mean) for other in best})

    def test_points_are_averages_over_the_tasks(self):
        part = study("t1")
        ax = pareto(part, ax=axes())
        for variant, drawn in zip(part.variants, ax.containers, strict=True):
            scores = [list(own["scores"].values()) for runs in part.row(variant) for own in runs.finished.values()]
            assert drawn.lines[0].get_ydata()[0] == pytest.approx(100 * np.mean(scores))
            assert drawn.lines[0].get_xdata()[0] == SIZES[variant.method]
        said = [text.get_text() for text in ax.findobj(Annotation)]
        assert said == [METHODS[variant.method].title for variant in part.variants]

    def test_a_method_without_an_average_is_named(self):
        found = lines(cell for cell in PROFILE.studies["t1"] if (cell.method, cell.tasks) != ("ia3", ("cola",)))
        ax = pareto(study("t1", found), ax=axes())
        assert "no seed with a score on every task: IA3" in ax.get_xlabel()
        assert "IA3" not in [text.get_text() for text in ax.findobj(Annotation)]

    def test_without_any_average(self):
        found = lines(cell for cell in PROFILE.studies["t1"] if cell.tasks == ("cola",))
        (said,) = texts(pareto(study("t1", found), ax=axes()))[:1]
        assert " ".join(said.split()) == "no method has a score on every task yet"


class TestLabels:
    @pytest.mark.parametrize("seed", range(4))
    def test_none_lies_on_another_or_outside(self, seed):
        ax = axes()
        ax.set(xlim=(-1, 6), ylim=(-1, 9))
        where = np.random.default_rng(seed).uniform((0, 0), (5, 8), (12, 2))
        place(ax, [Label(f"label {number}", *own) for number, own in enumerate(where)], [])
        ax.figure.draw_without_rendering()
        renderer = ax.figure.canvas.get_renderer()
        placed = [Text.get_window_extent(text, renderer) for text in ax.findobj(Annotation)]
        frame = ax.get_window_extent()
        assert all(frame.containsx(box.x0) and frame.containsx(box.x1) for box in placed)
        assert all(frame.containsy(box.y0) and frame.containsy(box.y1) for box in placed)
        assert not any(box.overlaps(other) for box, other in combinations(placed, 2))

    def test_obstacles_are_kept_clear(self):
        ax = axes()
        ax.set(xlim=(0, 10), ylim=(0, 10))
        place(ax, [Label("a label", 5, 5)], [(0, 4.9, 10, 10)])
        ax.figure.draw_without_rendering()
        (text,) = ax.findobj(Annotation)
        box = Text.get_window_extent(text, ax.figure.canvas.get_renderer())
        assert box.y1 < ax.transData.transform((0, 4.9))[1]


class TestStorage:
    def test_sizes_in_order(self):
        ax = storage({"lora-8": 300_000, "loretta-rep": 70_000, "full": 91_000_000}, ax=axes())
        names = [METHODS[name].title for name in ("loretta-rep", "lora-8", "full")]
        assert [label.get_text() for label in ax.get_yticklabels()] == names
        assert [text.get_text() for text in ax.findobj(Annotation)] == ["70.0 kB", "300.0 kB", "91.0 MB"]
        assert [own.get_xdata()[0] for own in ax.lines] == [70_000, 300_000, 91_000_000]


class TestLooks:
    def test_every_method_has_one_of_its_own(self):
        assert set(METHOD_LOOKS) == set(METHODS)
        assert len({(own.colour, own.marker) for own in METHOD_LOOKS.values()}) == len(METHOD_LOOKS)
        assert {name for name, own in METHOD_LOOKS.items() if own.hollow} == {"head", "norms-head"}

    def test_an_unknown_method_can_be_drawn(self):
        assert look("of next year").marker == "x"

    def test_colours_differ_for_the_colour_blind(self):
        """Machado, Oliveira and Fernandes 2009: how a dichromat sees a colour, at full severity, in linear RGB."""
        protan = np.array(
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
        )
        deutan = np.array(
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
        )
        for seen in (np.eye(3), protan, deutan):
            colours = {own.colour: seen @ linear(own.colour) for own in METHOD_LOOKS.values()}
            for (name, own), (other, another) in combinations(colours.items(), 2):
                assert math.dist(np.cbrt(own.clip(0)), np.cbrt(another.clip(0))) > 0.15, f"{name} and {other}"


def linear(colour):
    encoded = np.array(mpl.colors.to_rgb(colour))
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
