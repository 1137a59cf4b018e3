"""What the methods train at the paper's own sizes, counted on models without numbers, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper import models
from benchmarks.paper.cells import plain_options
from benchmarks.paper.methods import count_parameters, make_trainable
from benchmarks.paper.paper_rows import ROWS, PaperRow, Setting
from ttlib_peft.advice import without_advice

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
_LABELS = 2  # the paper counts heads of two classes


@dataclass(frozen=True, slots=True)
class PaperCount:
    """A row of the paper's tables, and what its setting trains: adapters, norms, head, body, total."""

    row: PaperRow
    trained: Mapping[str, int]

    @property
    def as_printed(self) -> bool | None:
        """Whether the paper prints this number; None where it prints none."""
        return self.row.is_as_printed(self.trained["total"]) if self.row.printed else None

    @property
    def verdict(self) -> str:
        """In words, for a table."""
        if self.as_printed is None:
            return "not in the paper" if not self.row.table else "no count printed"
        if self.as_printed:
            return "as printed"
        if self.row.differs:
            return f"not as printed. {self.row.differs}"
        return f"{self.row.printed} is printed, and nothing says why"

    @property
    def problem(self) -> str | None:
        """What is wrong with the row: a difference nobody explained, or an explanation that does not hold."""
        row, total = self.row, self.trained["total"]
        where = f"{row.table}, {row.model}, {row.label}"
        if self.as_printed is False and not row.differs:
            return f"{where}: {total:,} are trained, {row.printed}M are printed; say in paper_rows.py why, or mend it"
        if self.as_printed and row.differs:
            return f"{where}: {total:,} are trained, as printed; take the reason why not out of paper_rows.py"
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        row, total = self.row, self.trained["total"]
        return {
            "table": row.table,
            "model": row.model,
            "method": row.method,
            "options": plain_options(row.options),
            "printed": row.printed,
            "trained": dict(self.trained),
            "float32_bytes": FLOAT32_BYTES * total,
            "bfloat16_bytes": BFLOAT16_BYTES * total,
            "verdict": self.verdict,
            "note": row.note,
        }


def build(setting: Setting) -> nn.Module:
    """The model of a row under its method, without memory behind any weight."""
    model, method, chosen = setting
    labels = _LABELS if models.MODELS[model].kind == "encoder" else None
    skeleton = models.skeleton(model, labels=labels)
    # That a rank of 5 caps an r of 8 is as the paper has it: known, and not what is asked here.
    with torch.device("meta"), without_advice():
        return make_trainable(skeleton, method, seed=0, **dict(chosen))


@cache
def trained_parameters(setting: Setting) -> Mapping[str, int]:
    """What a setting trains: adapters, norms, head, body, total."""
    return count_parameters(build(setting))


def forward(model: nn.Module, *, rows: int = 2, tokens: int = 16) -> tuple[int, ...]:
    """The shape of the logits of a model without numbers: its layers fit together.

    Embeddings go in place of tokens, for the sake of what transformers looks up in tokens; prompts take tokens.
    """
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        given = {"input_ids": torch.ones(rows, tokens, dtype=torch.long, device="meta")}
    else:
        width = model.get_input_embeddings().embedding_dim
        given = {"inputs_embeds": torch.ones(rows, tokens, width, device="meta")}
    logits: Tensor = model(**given).logits
    return tuple(logits.shape)


def paper_counts(rows: Iterable[PaperRow] = ROWS) -> tuple[PaperCount, ...]:
    """Each row of the paper's tables with what its setting trains here."""
    return tuple(PaperCount(row, trained_parameters(row.setting)) for row in rows)


def ratios(counts: Iterable[PaperCount]) -> Iterator[dict[str, Any]]:
    """How many times fewer parameters LoRETTA trains than LoRA r=8 and dense adapters in Tables 1 to 3.

    Only of counts that are as printed: the paper's factor of 57.4 is adapters against adp on LLaMA-2-7B.
    """
    found = {
        (count.row.model, count.row.method): count.trained["total"]
        for count in counts
        if count.as_printed and count.row.table in ("Table 1", "Table 2", "Table 3")
    }
    for (model, ours), fewer in found.items():
        for (other, method), more in found.items():
            if model == other and ours.startswith("loretta-") and method.startswith(("lora-8", "adapters-")):
                yield {"model": model, "than": method, "of": ours, "more": more, "fewer": fewer, "times": more / fewer}
