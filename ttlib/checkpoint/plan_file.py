"""A compression plan: which weights of a checkpoint become trains, of which shape and ranks; a JSON file for people.

    {"format": "ttlib-compression-plan", "version": 1,
     "weights": {"layer.0.weight": {"shape": [24, 16, 8, 8], "ranks": 20},
                 "layer.1.weight": {"shape": [24, 16, 24, 16], "eps": 0.05}},
     "checkpoint": "…", "expected": {…}, "pareto": [[parameters, error], …]}

Weights that are not named stay as they are.  Only `format`, `version` and `weights` are needed: a plan may be written
by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ttlib._json import Json, refuse
from ttlib._types import Ranks, Shape
from ttlib.checkpoint import json_file
from ttlib.checkpoint.budget import ParetoPoint
from ttlib.errors import RankError, ShapeError, TTFileError
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_shape

FORMAT = "ttlib-compression-plan"
VERSION = 1

_REMEDY = "mend the plan, or have `ttlib compress … --budget … --plan-only` make a new one"
_OPTIONAL = ("checkpoint", "expected", "pareto")


@dataclass(frozen=True, slots=True)
class PlannedWeight:
    """What becomes of one weight: a train of this shape, of these ranks or to this relative error."""

    shape: Shape
    ranks: Ranks | None = None
    eps: float | None = None


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """Which weights become trains; made by `ttlib.checkpoint.plan_compression`, read from a file, or by hand.

    Attributes:
        weights: by name; what is not named stays dense.
        fingerprint: of the checkpoint that it was made for, None for any.
        parameters, error: what is expected of all weights that were looked at together, None where that is not known.
        pareto: what other budgets would buy.
    """

    weights: Mapping[str, PlannedWeight]
    fingerprint: str | None = None
    parameters: int | None = None
    error: float | None = None
    pareto: tuple[ParetoPoint, ...] = field(default=(), repr=False)

    def save(self, path: str | os.PathLike[str], /) -> None:
        """Write the plan as JSON; TTFileError where that cannot be done, and what was there is unchanged."""
        content: Json = {"format": FORMAT, "version": VERSION, "weights": {}}
        for name, weight in self.weights.items():
            how: Json = {"shape": list(weight.shape)}
            content["weights"][name] = how | (
                {"eps": weight.eps} if weight.ranks is None else {"ranks": list(weight.ranks)}
            )
        content["checkpoint"] = self.fingerprint
        content["expected"] = {"parameters": self.parameters, "error": self.error}
        content["pareto"] = [[point.parameters, point.error] for point in self.pareto]
        json_file.store(path, content, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike[str], /) -> CompressionPlan:
        """Read a plan; TTFileError names what in it cannot be."""
        return json_file.load(path, _parse, what="the plan", form=(FORMAT, VERSION), remedy=_REMEDY)


def _parse(content: Json) -> CompressionPlan:
    unknown = sorted(content.keys() - {"format", "version", "weights", *_OPTIONAL})
    if unknown:
        refuse("the list of unknown keys", unknown, f"none but {', '.join(_OPTIONAL)} beside weights", _REMEDY)
    weights = content.get("weights")
    if not isinstance(weights, dict):
        refuse("weights", weights, "an object of names and {shape, ranks or eps}", _REMEDY)
    expected = content.get("expected") or {}
    return CompressionPlan(
        {name: _weight(name, how) for name, how in weights.items()},
        fingerprint=content.get("checkpoint"),
        parameters=expected.get("parameters"),
        error=expected.get("error"),
        pareto=tuple(_point(point) for point in content.get("pareto") or ()),
    )


def _weight(name: str, how: Any) -> PlannedWeight:
    if not isinstance(how, dict) or how.keys() not in ({"shape", "ranks"}, {"shape", "eps"}):
        refuse(f"the plan of {name}", how, "an object with shape and either ranks or eps", _REMEDY)
    try:
        shape = check_shape(how["shape"])
        if "eps" in how:
            return PlannedWeight(shape, eps=check_tolerance(how["eps"]))
        return PlannedWeight(shape, ranks=clip_ranks(shape, how["ranks"]))
    except (ShapeError, RankError, TypeError) as error:
        msg = f"the plan of {name} cannot be followed: {error}"
        raise TTFileError(msg) from error


def _point(point: Any) -> ParetoPoint:
    if not (isinstance(point, list) and len(point) == 2 and all(isinstance(n, int | float) for n in point)):
        refuse("a point of pareto", point, "[parameters, error]", _REMEDY)
    return ParetoPoint(int(point[0]), float(point[1]))
