"""`ttlib.plan`: all strategies with their costs, and the one that is predicted to be the fastest."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from ttlib._arrays import dtype_name
from ttlib._types import Array, Ranks, RanksLike, Shape, ShapeLike
from ttlib.errors import BackendError, ShapeError
from ttlib.planning.candidates import Candidate, candidates, fastest
from ttlib.planning.execution import execute
from ttlib.planning.explanation import explain
from ttlib.planning.machine import ITEMSIZES, MachineModel
from ttlib.planning.machine_file import current_model
from ttlib.planning.network import Network, Path
from ttlib.planning.strategies import Strategy, linear
from ttlib.ranks import expand_ranks
from ttlib.shapes import check_integer, check_shape


@dataclass(frozen=True)
class ContractionPlan:
    """How to calculate y = x W, with W a tensor train, and what every way to do it costs; made by `ttlib.plan`.

    `strategy` is the one that `execute` follows, `candidates` are all of them with their costs.  Another one is
    followed by `dataclasses.replace(plan, strategy="factors")`, as where memory matters more than time.
    """

    network: Network
    candidates: tuple[Candidate, ...] = field(repr=False)
    strategy: Strategy

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            names = ", ".join(map(repr, get_args(Strategy)))
            msg = f"strategy {self.strategy!r} does not exist: choose one of {names}"
            raise ShapeError(msg)

    @property
    def pick(self) -> Candidate:
        """The candidate of the strategy that is followed."""
        return next(candidate for candidate in self.candidates if candidate.strategy == self.strategy)

    @property
    def order(self) -> Path:
        """The pairs to contract, in opt_einsum's convention, with the operands core_1 … core_d, x."""
        return linear(self.pick.path)

    @property
    def flops(self) -> int:
        """Multiplications plus additions, 2 m k n a product as opt_einsum counts; those of the gradients too."""
        return self.pick.flops

    @property
    def peak_elements(self) -> int:
        """Elements of the largest array that is made, y and copies included."""
        return self.pick.program.peak_elements

    def explain(self) -> str:
        """Return a table of all strategies with their costs, and why this one was picked."""
        return explain(self.network, self.candidates, self.pick)

    def execute(self, cores: Sequence[Array], x: Array) -> Array:
        """Return x W for x (…, in), in the library, dtype and device of the cores (r, n, r') and with their graph.

        The number of tokens may differ from the planned one, and so may the dtype: the result is right, only the
        predictions are for something else.  Raises ShapeError for cores of another shape or rank than planned and
        for an x that W cannot follow, BackendError for arrays of different libraries, dtypes or devices.
        """
        return execute(self.pick.program, self.network, cores, x)


def plan(
    shape: ShapeLike,
    /,
    *,
    split: int,
    ranks: RanksLike,
    tokens: int,
    training: bool = False,
    dtype: Any = "float32",
) -> ContractionPlan:
    """Choose how to multiply a batch of vectors by a matrix that is a tensor train.

    >>> import numpy as np, ttlib
    >>> plan = ttlib.plan([8, 8, 12, 8, 8], split=3, ranks=5, tokens=2048)
    >>> [candidate.strategy for candidate in plan.candidates]
    ['reconstruct', 'factors', 'cores', 'tree']
    >>> train = ttlib.random([8, 8, 12, 8, 8], ranks=5, seed=0)
    >>> x = np.ones((2, 1024, 768))
    >>> y = plan.execute(train.cores, x)
    >>> bool(np.allclose(y, x @ train.to_matrix(768, 64)))
    True

    `print(plan.explain())` shows the table of all strategies.

    Args:
        shape: the modes; W (in, out) is laid over them in C order.
        split: how many leading modes multiply to `in`; at least one, and not all.
        ranks: one int for every inner bond, the d-1 inner ranks, or d+1 with 1 at both ends; taken as given, never
            clipped.
        tokens: how many vectors x holds, 0 or more.
        training: whether gradients of x and of all cores will be taken; costs then include them.
        dtype: the name of the dtype that will be calculated in, or one of any library's dtypes.

    Four strategies are compared by the time that a model of the machine predicts: assemble W; assemble two factors U
    and V on either side of the split; contract core by core through x; follow the pairwise tree with the fewest FLOPs
    (opt_einsum, Smith and Gray 2018).  The model is the one that `ttlib.calibrate` has stored, or a built-in one.
    Plans are cached.

    Raises ShapeError for a shape, split or number of tokens that cannot be, RankError for ranks that cannot be,
    BackendError for a dtype that cores cannot have, TTFileError for a broken machine model.
    """
    modes = check_shape(shape)
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    if name not in ITEMSIZES:
        msg = f"dtype {dtype!r} is none that cores have: choose one of {', '.join(ITEMSIZES)}"
        raise BackendError(msg)
    split = check_integer(split, name="split")
    if split >= len(modes):
        msg = f"split {split} leaves no output mode of shape {modes}: append a mode of 1 for a single output"
        raise ShapeError(msg)
    tokens = check_integer(tokens, name="tokens", minimum=0)
    return _plan(modes, expand_ranks(modes, ranks), split, tokens, bool(training), name, current_model())


@functools.lru_cache(maxsize=1024)
def _plan(
    shape: Shape, ranks: Ranks, split: int, tokens: int, training: bool, dtype: str, machine: MachineModel
) -> ContractionPlan:
    network = Network(shape, ranks, split, tokens)
    found = candidates(network, training=training, dtype=dtype, machine=machine)
    return ContractionPlan(network, found, fastest(found).strategy)
