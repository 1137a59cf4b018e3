"""Carry out a program on arrays of any library: the only part of planning that touches numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ttlib._arrays import agree, describe, is_floating, matmul, namespace, reshape
from ttlib._types import Array
from ttlib.errors import BackendError, ShapeError
from ttlib.planning.lowering import MatrixView, Program
from ttlib.planning.network import Network


def execute(program: Program, network: Network, cores: Sequence[Array], x: Array) -> Array:
    """Return x W for x (…, in): as many tokens as there are, the program holds for any number."""
    check_operands(network, cores, x)
    values = [*cores, x]
    for left, right in program.steps:
        values.append(matmul(_matrix(values, left), _matrix(values, right)))
    y = _matrix(values, program.result)
    return y if x.ndim == 2 else reshape(y, (*x.shape[:-1], y.shape[-1]))


def _matrix(values: list[Array], view: MatrixView) -> Array:
    value = values[view.slot]
    values[view.slot] = None  # every operand serves once: what no gradient needs is free at once
    if view.axes:
        value = _written_out(namespace(value).permute_dims(reshape(value, view.shape), view.axes))
    rows, cols = view.matrix
    if not (value.ndim == 2 and (value.shape[0] == rows or value.shape[1] == cols)):  # else it is that matrix
        value = reshape(value, view.matrix)
    return value.mT if view.transposed else value


def _written_out(value: Array) -> Array:
    """Return *value* with its last axis contiguous in memory, and so on, in the libraries that can tell.

    A reshape alone would leave a transposed matrix transposed, and its products, or those of its gradient, slow.
    """
    if hasattr(value, "contiguous"):  # torch
        return value.contiguous()
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value


def check_operands(network: Network, cores: Sequence[Array], x: Array) -> None:
    """Raise ShapeError or BackendError unless the cores are those of the plan and x (…, in) goes with them."""
    expected = network.core_shapes
    if len(cores) != len(expected):
        msg = f"the plan is for {len(expected)} cores, got {len(cores)}: plan for the shape and ranks of these cores"
        raise ShapeError(msg)
    namespace(x, *cores)
    width = math.prod(network.shape[: network.split])
    if x.ndim == 0 or x.shape[-1] != width:
        msg = f"x has shape {tuple(x.shape)}: its last axis must have the {width} inputs that W has as its rows"
        raise ShapeError(msg)
    if not is_floating(x):
        msg = f"x is {describe(x)}: convert it to the floating dtype of the cores"
        raise BackendError(msg)
    here = (x.dtype, getattr(x, "device", None))  # a JAX tracer has no device
    for k, (core, shape) in enumerate(zip(cores, expected, strict=True)):
        if core.shape != shape:
            msg = (
                f"core {k} has shape {tuple(core.shape)}, the plan is for {shape}: plan for the shape and ranks of "
                f"these cores"
            )
            raise ShapeError(msg)
        if (core.dtype, getattr(core, "device", None)) != here and not agree(core, x):  # the first is faster
            msg = f"core {k} is {describe(core)}, x is {describe(x)}: give all one dtype and device"
            raise BackendError(msg)
