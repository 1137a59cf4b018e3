"""Scores of tasks by name, as fractions: from 0 to 1, correlations from -1 to 1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """The share of predictions that equal their reference.

    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    predicted, true = _pairs(predictions, references)
    return float(np.mean(predicted == true))


def f1(predictions: ArrayLike, references: ArrayLike) -> float:
    """F1 of label 1, as GLUE has it: 2 TP / (2 TP + FP + FN); 0 where neither side has a 1.

    >>> f1([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    predicted, true = (side == 1 for side in _pairs(predictions, references))
    marked = int(predicted.sum() + true.sum())
    return 2 * int((predicted & true).sum()) / marked if marked else 0.0


def matthews(predictions: ArrayLike, references: ArrayLike) -> float:
    """Matthews correlation of labels 0 and 1; 0 where one side is constant.

    >>> matthews([1, 1, 1], [1, 0, 1])
    0.0
    """
    return _correlation(*(side.astype(float) for side in _pairs(predictions, references)))


def spearman(predictions: ArrayLike, references: ArrayLike) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where one side is constant or has a NaN.

    >>> round(spearman([1.0, 2.0, 10.0], [0.1, 0.2, 0.3]), 12)
    1.0
    """
    return _correlation(*(stats.rankdata(side) for side in _pairs(predictions, references)))


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of answers that equal an accepted one after `normalised`.

    >>> exact_match(["The Rhine.", "Danube"], [["Rhine", "Rhein"], ["the Elbe"]])
    0.5
    """
    return _best_mean(lambda given, accepted: float(normalised(given) == normalised(accepted)), predictions, references)


def token_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over rows of an answer's best F1 with an accepted one: what the paper's code reports for SQuAD and DROP.

    F1 is between the two bags of words after `normalised`: 2 common / (words + words).  This is SQuAD's score; DROP's
    own is stricter: it compares numbers as numbers and matches the parts of an answer one to one.

    >>> token_f1(["the upper Rhine"], [["Rhine", "the Danube"]])
    0.6666666666666666
    """
    return _best_mean(_bag_f1, predictions, references)


METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "spearman": spearman,
    "exact_match": exact_match,
    "token_f1": token_f1,
}


def normalised(answer: str) -> str:
    """SQuAD's normal form: lower case, without punctuation (67.2 becomes 672) and articles, single spaces.

    >>> normalised("The  Second Republic.")
    'second republic'
    """
    bare = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _bag_f1(given: str, accepted: str) -> float:
    ours, theirs = normalised(given).split(), normalised(accepted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def _best_mean(score: Callable[[str, str], float], given: Sequence[str], accepted: Sequence[Sequence[str]]) -> float:
    _check_lengths(len(given), len(accepted))
    best = [max(score(own, one) for one in several) for own, several in zip(given, accepted, strict=True)]
    return float(np.mean(best))


def _pairs(predictions: ArrayLike, references: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, true = np.ravel(predictions), np.ravel(references)
    _check_lengths(len(predicted), len(true))
    return predicted, true


def _check_lengths(predictions: int, references: int) -> None:
    """Refuse what numpy would broadcast, or answer with a warning and NaN."""
    if predictions != references or not predictions:
        msg = f"{predictions} predictions for {references} references; give one for each, and at least one"
        raise ValueError(msg)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
