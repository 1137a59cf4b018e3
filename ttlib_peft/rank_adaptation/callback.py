"""The rank budget in transformers' Trainer."""

from __future__ import annotations

from typing import Any, Self

from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ttlib_peft.rank_adaptation.allocator import RankAllocator


class RankBudgetCallback(TrainerCallback, ExportableState):
    """Adapt the tensor ranks while a Trainer trains: `Trainer(…, callbacks=[RankBudgetCallback(target_rank=3)])`.

    >>> RankBudgetCallback(target_rank=3, interval=20).state()["args"]
    {'target_rank': 3, 'interval': 20}

    The settings are those of `RankAllocator` but for the number of steps, which the Trainer knows.  Checkpoints have
    the full ranks, with what is off at zero, and the allocator's state in their trainer_state.json, so that a resumed
    run goes on identically.  When training ends, what is off is taken out of the model: `trainer.save_model()`
    then writes the small adapter.  One a Trainer.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.allocator: RankAllocator | None = None

    def state(self) -> dict[str, Any]:
        """Return what the Trainer writes into a checkpoint."""
        allocation = None if self.allocator is None else self.allocator.state_dict()
        return {"args": self._settings, "attributes": {"allocation": allocation}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Make the callback of a checkpoint; `on_train_begin` reads the rest."""
        return cls(**state["args"])

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, model: nn.Module, **___: Any) -> None:
        """Start, or go on where the checkpoint was."""
        self.allocator = RankAllocator(model, total_steps=state.max_steps, **self._settings)
        if state.global_step > 0:
            saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {}).get("allocation")
            if saved is None:
                msg = (
                    f"the checkpoint of step {state.global_step} was written without a {type(self).__name__}: resume "
                    "without one, or train from the start"
                )
                raise ValueError(msg)
            self.allocator.load_state_dict(saved)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Take the step into account while the gradients are there."""
        self._started().step()

    def on_train_end(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
        """Take what is off out of the model, which is within the budget then."""
        self._started().remove(optimizer)

    def _started(self) -> RankAllocator:
        assert self.allocator is not None  # noqa: S101  # for the type checker: the Trainer has begun
        return self.allocator
