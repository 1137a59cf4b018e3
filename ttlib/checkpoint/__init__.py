"""Whole model files, tensor by tensor: what can be compressed, at which shape and rank, and the compressed file.

`analyze` tells what trains of each weight cost and lose, `compress` writes them, `decompress` reads them back.
"""

from __future__ import annotations

from ttlib.checkpoint.analysis import AnalysisSettings, CheckpointAnalysis, analyze
from ttlib.checkpoint.archive import Archive, CompressedWeight, read_archive
from ttlib.checkpoint.bond_spectrum import BondSpectrum
from ttlib.checkpoint.compression import compress
from ttlib.checkpoint.decompression import decompress
from ttlib.checkpoint.engines import Engine, LocalEngine
from ttlib.checkpoint.plan_file import CompressionPlan, PlannedWeight
from ttlib.checkpoint.planning import plan_compression
from ttlib.checkpoint.reader import Checkpoint, open_checkpoint
from ttlib.checkpoint.run import Progress
from ttlib.checkpoint.selection import Skipped
from ttlib.checkpoint.weight import AtRank, AtTolerance, ShapeAnalysis, WeightAnalysis, analyze_weight
from ttlib.checkpoint.writer import TensorSpec, write_safetensors

__all__ = [
    "AnalysisSettings",
    "Archive",
    "AtRank",
    "AtTolerance",
    "BondSpectrum",
    "Checkpoint",
    "CheckpointAnalysis",
    "CompressedWeight",
    "CompressionPlan",
    "Engine",
    "LocalEngine",
    "PlannedWeight",
    "Progress",
    "ShapeAnalysis",
    "Skipped",
    "TensorSpec",
    "WeightAnalysis",
    "analyze",
    "analyze_weight",
    "compress",
    "decompress",
    "open_checkpoint",
    "plan_compression",
    "read_archive",
    "write_safetensors",
]
