"""A language model that answers in words: options are weighed by their likelihood, open answers are written greedily.

The loss is that of the right answer's tokens, for every task.  The paper trains CB, BoolQ and WSC on the cross-entropy
over their options' likelihoods instead, at one pass an option and with a trainer of its own.
"""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from benchmarks.paper.metrics import METRICS
from benchmarks.paper.problem import Evaluation, Features, by_length, evaluating
from benchmarks.paper.prompts import Example, example
from benchmarks.paper.tasks import Row, Task

_EVALUATION_BATCH = 16
_NEW_TOKENS = 24  # more than 99 in 100 answers of SQuAD and DROP have
_IGNORED = -100  # a label that the loss leaves out


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example in tokens: the prompt, and each option that may follow it."""

    example: Example
    prompt: list[int]
    options: list[list[int]]

    @property
    def target(self) -> list[int]:
        """The option to learn."""
        return self.options[self.example.gold or 0]


@dataclass(frozen=True)
class LanguageProblem:
    """One task's encoded rows; `held_back` are those that the score is taken on."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Features]
    held_back: Sequence[Encoded]

    @classmethod
    def of(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Row],
        held_back: Sequence[Row],
        max_length: int,
    ) -> LanguageProblem:
        """Put the rows into words and encode them; UnknownPromptError for a task without a prompt."""
        learnt, asked = (
            [encode(tokenizer, example(task, row), max_length) for row in rows] for rows in (train, held_back)
        )
        return cls(task, tokenizer, encode_training(learnt), asked)

    def collate(self, features: Sequence[Features]) -> dict[str, Any]:
        """Pad to the longest row of the batch, and ask the model for logits only from the first label on."""
        labels = _padded([row["labels"] for row in features], _IGNORED)
        following = nn.functional.pad(labels[:, 1:], (0, 1), value=_IGNORED)
        first = int((following != _IGNORED).any(0).nonzero()[0])
        return {
            **_inputs([row["input_ids"] for row in features], self.tokenizer.pad_token_id),
            "labels": labels,
            "shift_labels": following[:, first:].contiguous(),
            "logits_to_keep": labels.shape[1] - first,
        }

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Mean loss over the rows that are held back, a row's being the mean over its right answer, and the metric."""
        likelihoods = log_likelihoods(model, self.tokenizer, self.held_back)
        predictions: list[Any]
        references: list[Any]
        if self.task.kind == "answer":
            predictions = written_answers(model, self.tokenizer, self.held_back)
            references = [row.example.answers for row in self.held_back]
        else:
            predictions = [options.index(max(options)) for options in likelihoods]
            references = [row.example.gold for row in self.held_back]
        right = (row[encoded.example.gold or 0] for row, encoded in zip(likelihoods, self.held_back, strict=True))
        return Evaluation(-statistics.fmean(right), METRICS[self.task.metric](predictions, references))


def encode(tokenizer: PreTrainedTokenizerBase, asked: Example, max_length: int) -> Encoded:
    """Tokens of an example, the beginning of its context cut off so that it and any option take `max_length`.

    The question and the options stay whole, whatever their length.  An open answer ends with the token that ends texts;
    it is left the room that one is written in, so that the length of a prompt says nothing of the right answer.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    question = tokens(asked.question)
    # Read behind the question, for a text by itself may begin with other tokens.
    options = [tokens(asked.question + option)[len(question) :] for option in asked.options]
    longest = max(map(len, options))
    if asked.gold is None:
        options, longest = [[*option, _end(tokenizer)] for option in options], _NEW_TOKENS
    start = _start(tokenizer)
    room = max_length - len(start) - len(question) - longest
    context = tokens(asked.context)
    return Encoded(asked, [*start, *context[max(0, len(context) - max(0, room)) :], *question], options)


def encode_training(rows: Sequence[Encoded]) -> list[Features]:
    """The rows to train on: only the tokens of the right answer have labels."""
    return [{"input_ids": row.prompt + row.target, "labels": [_IGNORED] * len(row.prompt) + row.target} for row in rows]


def log_likelihoods(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded]) -> list[list[float]]:
    """The mean log-likelihood of each option's tokens, given the prompt.

    A last token is predicted and never read: options of one token share one pass of their prompt.
    """
    places: dict[tuple[tuple[int, ...], int], list[tuple[int, int]]] = defaultdict(list)
    for number, row in enumerate(rows):
        for which, option in enumerate(row.options):
            places[(*row.prompt, *option[:-1]), len(option)].append((number, which))
    passes = [{"input_ids": read, "predicted": predicted} for read, predicted in places]
    found = [[0.0] * len(row.options) for row in rows]
    with evaluating(model):
        for batch in by_length(passes, _EVALUATION_BATCH):
            for number, logits in zip(batch, _last_logits(model, tokenizer, [passes[i] for i in batch]), strict=True):
                logarithms = logits.float().log_softmax(-1)
                for row, which in places[passes[number]["input_ids"], passes[number]["predicted"]]:
                    option = torch.tensor(rows[row].options[which], device=logits.device)
                    found[row][which] = float(logarithms.gather(-1, option[:, None]).mean())
    return found


def written_answers(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded]) -> list[str]:
    """What the model writes after each prompt, always the likeliest token, up to the end of the line.

    Prompts are written to in batches of one length: virtual tokens stand before the padding that others would need, at
    a distance to the text that they were not trained at.
    """
    settings = GenerationConfig(
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        eos_token_id=_end(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    stop = StoppingCriteriaList([_EndOfLine(tokenizer)])
    written = [""] * len(rows)
    with evaluating(model), warnings.catch_warnings():
        # Virtual tokens have no use for the positions that `generate` counts; without padding, the model counts right.
        warnings.filterwarnings("ignore", message="Position ids are not supported")
        for batch in _of_one_length(rows):
            inputs = _inputs([rows[row].prompt for row in batch], tokenizer.pad_token_id, _device(model))
            tokens = model.generate(**inputs, generation_config=settings, stopping_criteria=stop)
            for row, own in zip(batch, tokens[:, inputs["input_ids"].shape[1] :], strict=True):
                written[row] = tokenizer.decode(own, skip_special_tokens=True).split("\n")[0].strip()
    return written


class _EndOfLine(StoppingCriteria):
    """Ends a text at the first token with a line break; `stop_strings` would look through the vocabulary each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        ended = ["\n" in self._tokenizer.decode(token) for token in input_ids[:, -1:]]
        return torch.tensor(ended, device=input_ids.device)


def _last_logits(model: nn.Module, tokenizer: PreTrainedTokenizerBase, passes: Sequence[Features]) -> Iterator[Tensor]:
    """Of each pass, the logits at the tokens that predict."""
    lengths = [len(each["input_ids"]) for each in passes]
    first = min(length - each["predicted"] for length, each in zip(lengths, passes, strict=True))
    inputs = _inputs([each["input_ids"] for each in passes], tokenizer.pad_token_id, _device(model))
    logits = model(**inputs, logits_to_keep=max(lengths) - first, use_cache=False).logits
    for own, length, each in zip(logits, lengths, passes, strict=True):
        yield own[length - first - each["predicted"] : length - first]


def _of_one_length(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row].prompt))
    for _, group in groupby(order, key=lambda row: len(rows[row].prompt)):
        same = list(group)
        yield from (same[at : at + _EVALUATION_BATCH] for at in range(0, len(same), _EVALUATION_BATCH))


def _inputs(rows: Sequence[Sequence[int]], padding: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Padding stands on the right: causal attention, and so every method, never sees it."""
    mask = _padded([[1] * len(row) for row in rows], 0)
    return {"input_ids": _padded(rows, padding).to(device), "attention_mask": mask.to(device)}


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the model was trained to see before every text, if anything."""
    start = tokenizer.bos_token_id
    return [start] if start is not None and tokenizer("a")["input_ids"][0] == start else []


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text: the tokenizers of encoders call it a separator."""
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
