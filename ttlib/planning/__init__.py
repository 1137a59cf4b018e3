"""Plan the contraction of a tensor train with a batch of vectors: which products, in which order, at what cost."""

from ttlib.planning.calibration import calibrate
from ttlib.planning.contraction_plan import ContractionPlan, plan

__all__ = ["ContractionPlan", "calibrate", "plan"]
