"""The scores against formulas by hand, scipy, and counting by loops."""

import doctest
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.paper import metrics
from benchmarks.paper.metrics import METRICS, exact_match, f1, matthews, normalised, spearman, token_f1
from benchmarks.paper.tasks import TASKS

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
NUMBERS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)
ANSWERS = st.lists(st.sampled_from(["the", "a", "Rhine", "rhine", "river.", "42", "of", "1,000"]), max_size=6).map(
    " ".join
)


def _confusion(pairs):
    count = {key: sum(pair == key for pair in pairs) for key in ((1, 1), (1, 0), (0, 1), (0, 0))}
    return count[1, 1], count[1, 0], count[0, 1], count[0, 0]


@given(PAIRS)
def test_binary_scores_follow_from_the_confusion_matrix(pairs):
    predictions, references = zip(*pairs, strict=True)
    hits, false_alarms, missed, rest = _confusion(pairs)
    assert METRICS["accuracy"](predictions, references) == pytest.approx((hits + rest) / len(pairs))
    marked = 2 * hits + false_alarms + missed
    assert f1(predictions, references) == pytest.approx(2 * hits / marked if marked else 0)
    root = (hits + false_alarms) * (hits + missed) * (rest + false_alarms) * (rest + missed)
    expected = (hits * rest - false_alarms * missed) / math.sqrt(root) if root else 0
    assert matthews(predictions, references) == pytest.approx(expected, abs=1e-12)


@given(NUMBERS)
def test_spearman_is_scipys_and_zero_where_that_is_undefined(pairs):
    ours, theirs = map(np.array, zip(*pairs, strict=True))
    defined = np.ptp(ours) > 0 and np.ptp(theirs) > 0
    expected = stats.spearmanr(ours, theirs).statistic if defined else 0.0
    assert spearman(ours, theirs) == pytest.approx(expected, abs=1e-12)
    assert spearman(np.exp(ours / 2), theirs) == pytest.approx(expected, abs=1e-12)  # only the order counts


def test_spearman_of_a_model_that_answers_nan_is_zero():
    assert spearman([1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]) == 0.0


@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3))
def test_token_f1_is_the_best_overlap_of_words_counted_one_by_one(answer, accepted):
    def words(text):
        kept = re.sub(r"[^a-z0-9 ]", "", text.lower()).split()
        return [word for word in kept if word not in {"a", "an", "the"}]

    def overlap(one, other):
        one, left, common = words(one), words(other), 0
        if not one or not left:
            return float(one == left)
        total = len(one) + len(left)
        for word in one:
            if word in left:
                left.remove(word)
                common += 1
        precision, recall = common / len(one), common / (total - len(one))
        return 2 * precision * recall / (precision + recall) if common else 0.0

    score = token_f1([answer], [accepted])
    assert score == pytest.approx(max(overlap(answer, one) for one in accepted))
    assert exact_match([answer], [accepted]) <= score <= 1
    assert token_f1([answer] * 2, [accepted, [answer]]) == pytest.approx((score + 1) / 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("An  Apple a day", "apple day"),
        ("theatre and another", "theatre and another"),  # articles are words, not letters
        ("U.S.", "us"),
        ("67.2", "672"),  # as SQuAD's own script has it
        ("The", ""),
        ("Überfluß", "überfluß"),
    ],
)
def test_normal_form_of_an_answer(text, expected):
    assert normalised(text) == expected


def test_repeated_words_count_as_often_as_both_sides_have_them():
    assert token_f1(["no no no"], [["no no"]]) == pytest.approx(4 / 5)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_model_scores_one_and_unequal_lengths_are_refused(name):
    metric = METRICS[name]
    texts = name in {"exact_match", "token_f1"}
    truth = ["one", "two", "three"] if texts else [0, 1, 1]
    references = [[answer] for answer in truth] if texts else truth
    assert metric(truth, references) == pytest.approx(1)
    assert type(metric(truth, references)) is float
    with pytest.raises(ValueError, match="2 predictions for 3 references; give one for each"):
        metric(truth[:2], references)
    with pytest.raises(ValueError, match="0 predictions for 0 references.*at least one"):
        metric([], [])


def test_a_column_of_logits_is_one_prediction_a_row():
    assert spearman(np.array([[0.1], [0.2], [0.3]]), np.array([1, 2, 3])) == pytest.approx(1)


def test_every_task_is_scored_by_a_metric_that_fits_its_kind():
    fitting = {
        "classification": {"accuracy", "f1", "matthews"},
        "regression": {"spearman"},
        "choice": {"accuracy"},
        "answer": {"exact_match", "token_f1"},
    }
    for task in TASKS.values():
        assert task.metric in fitting[task.kind], task.name
        assert task.metric == "accuracy" or task.kind != "classification" or len(task.labels) == 2, task.name


def test_examples_in_the_docstrings_hold():
    failed, tried = doctest.testmod(metrics)
    assert failed == 0
    assert tried >= len(METRICS)
