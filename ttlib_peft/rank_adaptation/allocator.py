"""The budget during training: what is allowed at which step, and which indices have it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from peft import PeftModel
from torch import distributed, nn
from torch.optim import Optimizer

from ttlib.cost import count_parameters
from ttlib.errors import RankError
from ttlib.ranks import clip_ranks
from ttlib.shapes import check_integer
from ttlib_peft.config import TensorAdapterConfig, TensorRank, number
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.rank_adaptation.bonds import Bonds
from ttlib_peft.rank_adaptation.optimizer_state import check_can_be_cut, cut
from ttlib_peft.rank_adaptation.selection import select_indices
from ttlib_peft.tt_linear import TTLinear


class RankAllocator:
    """Train with large tensor ranks, end with a budget of parameters where it is of most use.

    >>> import torch, peft, ttlib_peft
    >>> config = ttlib_peft.LorettaRepConfig(r=4, tensor_rank=4, target_modules=["0", "2"], seed=0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16))
    >>> model = peft.get_peft_model(net, config)
    >>> optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    >>> allocator = RankAllocator(model, total_steps=20, target_rank=2)
    >>> for _ in range(20):
    ...     model(torch.ones(3, 16)).sum().backward()
    ...     optimizer.step()
    ...     allocator.step()
    ...     optimizer.zero_grad()
    >>> allocator.remove(optimizer)
    >>> allocator.parameters <= allocator.budget
    True

    Every index of every inner bond is a candidate.  Its importance is the change of the loss without it to first
    order, |sum of gradient x (weight - start)| over the two slices that meet in it, averaged over the steps.  After a
    share `warmup` of the steps, every `interval` steps, the least important for the parameters they free are switched
    off in all layers together: the slices that end in them are zeroed.  They are trained on and may come back while
    others go.  What is allowed falls with the cube of the time left, as in AdaLoRA (Zhang et al. 2023, section 3.3),
    until the share `settled_after`; from there on the choice holds.  `remove` takes what is off out of the cores, out
    of their kept start and out of the optimiser's state, and leaves the function as it is.

    Args:
        model: a model with an adapter of this library.  Not a wrapper (DDP): what it wraps.
        total_steps: steps of the optimiser in the whole training.
        budget: entries of cores at the end (biases, norms and heads do not count), or
        target_rank: in its place, what the adapter would have with this rank for every bond.
        adapter_name: the adapter.
        warmup, settled_after: shares of the steps.
        interval: steps between two choices.
        smoothing: the weight of the past in the average.

    Call `step` after `optimizer.step()` and before `zero_grad()`, with gradients accumulated or not.  In processes
    that train together the first one's averages decide for all.

    Raises RankError for a budget that ranks of 1 do not meet, or that is no less than the adapter has; TypeError for a
    model without such an adapter; ValueError for other settings that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        total_steps: int,
        budget: int | None = None,
        target_rank: int | None = None,
        adapter_name: str = "default",
        warmup: float = 0.1,
        settled_after: float = 0.6,
        interval: int = 10,
        smoothing: float = 0.85,
    ) -> None:
        self._config = _config_of(model, adapter_name)
        self._trains = _named_trains(model, adapter_name)
        self._bonds = Bonds(list(self._trains.values()))
        self._full = self._count([train.ranks for train in self._trains.values()])
        self.budget = self._checked_budget(budget, target_rank)
        self.interval = check_integer(interval, name="interval")
        total = check_integer(total_steps, name="total_steps")
        self.first_step = math.ceil(number(warmup, "warmup", low=0.0, below=1.0) * total) + 1
        self.last_step = max(math.ceil(number(settled_after, "settled_after", low=warmup, below=1.0) * total), 1)
        self.smoothing = number(smoothing, "smoothing", low=0.0, below=1.0)
        self._steps = 0
        device = self._bonds.trains[0].flat.device
        self._importance = torch.zeros(self._bonds.count, device=device)
        self._on = torch.ones(self._bonds.count, dtype=torch.bool, device=device)

    @property
    def settled(self) -> bool:
        """Whether the choice holds from here on."""
        return self._steps >= self.last_step

    @property
    def ranks(self) -> dict[str, dict[str, TensorRank]]:
        """The inner ranks that are switched on, by module and matrix."""
        found: dict[str, dict[str, TensorRank]] = {}
        for (module, matrix), kept in zip(self._trains, self._bonds.kept(self._on), strict=True):
            found.setdefault(module, {})[matrix] = [len(bond) for bond in kept]
        return found

    @property
    def parameters(self) -> int:
        """Entries of cores that are switched on."""
        return self._count([[1, *map(len, kept), 1] for kept in self._bonds.kept(self._on)])

    def allowed(self, step: int) -> int:
        """How many entries of cores may be on after that step."""
        if step >= self.last_step:
            return self.budget
        if step < self.first_step:
            return self._full
        left = (self.last_step - step) / (self.last_step - self.first_step)
        return self.budget + math.floor((self._full - self.budget) * left**3)

    def step(self) -> None:
        """Take one step of the optimiser into account.

        Raises RuntimeError when no gradient is there to be seen.
        """
        if not self.settled:
            self._observe()
        self._steps += 1
        if self._steps > self.last_step:
            self._bonds.switch_off(self._on)  # what the optimiser has moved since
        elif self._steps == self.last_step or (
            self._steps >= self.first_step and (self._steps - self.first_step) % self.interval == 0
        ):
            self._choose(self.allowed(self._steps))

    @torch.no_grad()
    def remove(self, optimizer: Optimizer | None = None) -> None:
        """Take what is switched off out of the cores, and record the ranks in the adapter's configuration.

        Where the ranks are not settled yet, they are first cut to the budget as it stands.  Parameters become other,
        smaller ones; *optimizer* goes on with them where it was, so that training can go on too.

        Raises ShapeError, before anything is changed, for an optimiser that keeps anything but tensors of the
        parameter's shape and numbers.
        """
        if optimizer is not None:
            check_can_be_cut(optimizer, [train.flat for train in self._bonds.trains])
        if not self.settled:
            self._choose(self.budget)
            self._steps = self.last_step
        self._bonds.switch_off(self._on)
        for train, kept in zip(self._bonds.trains, self._bonds.kept(self._on), strict=True):
            old = train.flat
            entries = train.keep_indices(kept)
            if optimizer is not None:
                cut(optimizer, old, train.flat, entries)
        # Anchored: PEFT takes a name for the end of longer ones too.  No other pattern counts: every module is named.
        self._config.tensor_rank_pattern = {f"^{module}": own for module, own in self.ranks.items()}
        self._importance = self._importance[self._on]
        self._on = self._on[self._on]
        self._bonds = Bonds(self._bonds.trains)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is not in the model and its optimiser, as JSON can hold it."""
        on = self._on.int().tolist()
        return {"steps": self._steps, "importance": self._importance.tolist(), "on": on}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another allocator of this adapter and these settings was.

        Raises RankError for a state of an adapter with other ranks.
        """
        if len(state["on"]) != self._bonds.count or len(state["importance"]) != self._bonds.count:
            msg = (
                f"the state is of an adapter with {len(state['on'])} bond indices, this one has {self._bonds.count}: "
                "build the model with the configuration it was trained with"
            )
            raise RankError(msg)
        self._steps = check_integer(state["steps"], name="steps", minimum=0)
        self._importance = torch.tensor(state["importance"]).to(self._importance)
        self._on = torch.tensor(state["on"]).to(self._on)

    def _observe(self) -> None:
        if all(train.flat.grad is None for train in self._bonds.trains):
            msg = (
                "no tensor train of the adapter has a gradient: call step() after backward() and optimizer.step(), and "
                "before zero_grad()"
            )
            raise RuntimeError(msg)
        seen = torch.lerp(self._bonds.sensitivity(), self._importance, self.smoothing)
        # a step that a loss scaler skips has gradients that are no numbers
        self._importance = torch.where(torch.isfinite(seen).all(), seen, self._importance)

    def _choose(self, allowed: int) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(self._importance, src=0)
        shapes = [train.tensor_shape for train in self._bonds.trains]
        kept = select_indices(shapes, self._bonds.nested(self._importance), allowed)
        self._on = self._bonds.switched_on(kept)
        self._bonds.switch_off(self._on)

    def _count(self, ranks: list[Any]) -> int:
        shapes = [train.tensor_shape for train in self._trains.values()]
        return sum(count_parameters(shape, ranks=own) for shape, own in zip(shapes, ranks, strict=True))

    def _checked_budget(self, budget: int | None, target_rank: int | None) -> int:
        if (budget is None) == (target_rank is None):
            msg = f"give either budget or target_rank, got budget={budget!r} and target_rank={target_rank!r}"
            raise ValueError(msg)
        if target_rank is not None:
            rank = check_integer(target_rank, name="target_rank")
            budget = self._count([clip_ranks(train.tensor_shape, rank) for train in self._trains.values()])
        budget = check_integer(budget, name="budget")
        lowest = self._count([clip_ranks(train.tensor_shape, 1) for train in self._trains.values()])
        if not lowest <= budget < self._full:
            msg = (
                f"a budget of {budget} parameters cannot be met: the tensor trains have {self._full} now and {lowest} "
                "with all ranks 1; choose a budget in between, or a larger tensor_rank to start from"
            )
            raise RankError(msg)
        return budget


def _config_of(model: nn.Module, adapter_name: str) -> TensorAdapterConfig:
    config = getattr(model, "peft_config", {}).get(adapter_name)
    if not isinstance(config, TensorAdapterConfig):
        known = {name: type(own).__name__ for name, own in getattr(model, "peft_config", {}).items()}
        msg = f"adapter {adapter_name!r} is no adapter of this library in this model; it has {known or 'no adapters'}"
        raise TypeError(msg)
    return config


def _named_trains(model: nn.Module, adapter_name: str) -> dict[tuple[str, str], TTLinear]:
    """Return the tensor trains of an adapter by the names of module and matrix, as the configuration knows them."""
    root = cast(nn.Module, model.base_model.model) if isinstance(model, PeftModel) else model
    trains = {
        (name, attribute.rpartition("_")[2]): layer.get_submodule(attribute)[adapter_name]  # type: ignore[index]
        for name, layer in root.named_modules()
        if isinstance(layer, TensorAdapterLayer)
        for attribute in layer.adapter_layer_names
        if adapter_name in layer.get_submodule(attribute)  # type: ignore[operator]
    }
    for (module, matrix), train in trains.items():
        size = sum(train.train_shapes.sizes)
        if not isinstance(train, TTLinear) or type(train.flat) is not nn.Parameter or train.flat.numel() != size:
            msg = (
                f"{matrix} of {module} holds its cores as {type(train.flat).__name__} of {train.flat.numel()} entries, "
                f"not as a parameter of {size}: sharded cores cannot change their ranks; leave the adapter unsharded"
            )
            raise TypeError(msg)
    if len({id(train) for train in trains.values()}) < len(trains):
        msg = "layers of this adapter share a tensor train, which has no ranks of its own for each: train it as it is"
        raise TypeError(msg)
    return trains
