"""A language model that answers in words: options are weighed by their likelihood, open answers are written greedily.

What is learnt is as in the paper's code: a classifier tells its options apart, by the cross-entropy over their mean
log-likelihoods; for a choice between sentences and for an open answer, a model learns the words of the right one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from benchmarks.paper.metrics import METRICS
from benchmarks.paper.problem import Evaluation, Features, by_length, device_of, evaluating
from benchmarks.paper.prompts import Example, example
from benchmarks.paper.tasks import Row, Task

_EVALUATION_BATCH = 4
_NEW_TOKENS = 24  # more than 99 in 100 answers of SQuAD and DROP have
_NONE = -100  # in place of a token that a shorter option does not have


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example in tokens: the prompt, the options that may follow it, and which one is right."""

    prompt: list[int]
    options: list[list[int]]
    right: int
    example: Example

    @property
    def features(self) -> Features:
        """What the trainer handles: rows are put together by the length of `input_ids`."""
        return {"input_ids": [*self.prompt, *max(self.options, key=len)], "row": self}

    @property
    def alone(self) -> Encoded:
        """The same with the right option only."""
        return Encoded(self.prompt, [self.options[self.right]], 0, self.example)


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
        compared = task.kind == "classification"
        return cls(task, tokenizer, [(row if compared else row.alone).features for row in learnt], asked)

    def collate(self, features: Sequence[Features]) -> dict[str, Any]:
        """One batch; its labels are places in the logits and right options, which `loss` understands."""
        rows = [each["row"] for each in features]
        inputs, places = _batch(rows, self.tokenizer.pad_token_id)
        return {**inputs, "labels": (places, torch.tensor([row.right for row in rows]))}

    def loss(self, outputs: Any, labels: tuple[Tensor, Tensor], num_items_in_batch: object = None) -> Tensor:  # noqa: ARG002  # Trainer's name
        """The mean loss over the rows of a batch."""
        places, right = labels
        return self._loss(_log_likelihoods(outputs.logits, places), right)

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Mean loss and metric over all rows that are held back."""
        likelihoods = log_likelihoods(model, self.tokenizer, self.held_back)
        right = torch.tensor([row.right for row in self.held_back])
        loss = float(self._loss(likelihoods, right))
        metric = METRICS[self.task.metric]
        if self.task.kind == "answer":
            written = written_answers(model, self.tokenizer, self.held_back)
            return Evaluation(loss, metric(written, [row.example.answers for row in self.held_back]))
        return Evaluation(loss, metric(likelihoods.argmax(-1).numpy(), right.numpy()))

    def _loss(self, likelihoods: Tensor, right: Tensor) -> Tensor:
        if self.task.kind == "classification":
            return functional.cross_entropy(likelihoods, right)
        return -likelihoods.gather(1, right[:, None]).mean()


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
    prompt = [*start, *context[max(0, len(context) - max(0, room)) :], *question]
    return Encoded(prompt, options, asked.gold or 0, asked)


def log_likelihoods(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded]) -> Tensor:
    """The mean log-likelihood of each option's tokens given the prompt: rows x options."""
    found = [torch.empty(0)] * len(rows)
    with evaluating(model):
        for numbers in by_length([row.features for row in rows], _EVALUATION_BATCH):
            inputs, places = _batch([rows[number] for number in numbers], tokenizer.pad_token_id, device_of(model))
            likelihoods = _log_likelihoods(model(**inputs).logits, places).cpu()
            for number, own in zip(numbers, likelihoods, strict=True):
                found[number] = own
    return torch.stack(found)


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
        for numbers in _of_one_length(rows):
            inputs = _padded([rows[number].prompt for number in numbers], tokenizer.pad_token_id, device_of(model))
            tokens = model.generate(**inputs, generation_config=settings, stopping_criteria=stop)
            for number, own in zip(numbers, tokens[:, inputs["input_ids"].shape[1] :], strict=True):
                written[number] = tokenizer.decode(own, skip_special_tokens=True).split("\n")[0].strip()
    return written


class _EndOfLine(StoppingCriteria):
    """Ends a text at the first token with a line break; `stop_strings` would look through the vocabulary each time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        ended = ["\n" in self._tokenizer.decode(token) for token in input_ids[:, -1:]]
        return torch.tensor(ended, device=input_ids.device)


def _batch(rows: Sequence[Encoded], padding: int, device: torch.device | None = None) -> tuple[dict[str, Any], Tensor]:
    """What the model reads, and where in its logits each token of each option is predicted.

    The places have the shape rows x options x tokens x 3: the sequence, the position and the token itself.  The last
    token of an option is not read, so that options of one token share one reading of their prompt.  Logits are made
    from the first token on that predicts one of an option: they are the greatest part of a batch's memory.
    """
    first = min(len(row.prompt) for row in rows) - 1
    read: dict[tuple[int, ...], int] = {}
    places: list[Tensor] = []
    for row in rows:
        start = len(row.prompt) - 1 - first
        for option in row.options:
            number = read.setdefault((*row.prompt, *option[:-1]), len(read))
            places.append(torch.tensor([(number, start + at, token) for at, token in enumerate(option)]))
    stacked = pad_sequence(places, batch_first=True, padding_value=_NONE)
    inputs = {
        **_padded(list(read), padding, device),
        "logits_to_keep": max(map(len, read)) - first,
        "use_cache": False,
    }
    return inputs, stacked.reshape(len(rows), -1, *stacked.shape[1:]).to(device)


def _log_likelihoods(logits: Tensor, places: Tensor) -> Tensor:
    """The mean over each option's tokens."""
    present = places[..., 2] != _NONE
    sequence, position, token = places.clamp(min=0).unbind(-1)
    logarithms = logits.float().log_softmax(-1)[sequence, position, token]
    return logarithms.where(present, 0.0).sum(-1) / present.sum(-1)


def _of_one_length(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number].prompt))
    for _, group in groupby(order, key=lambda number: len(rows[number].prompt)):
        same = list(group)
        yield from (same[at : at + _EVALUATION_BATCH] for at in range(0, len(same), _EVALUATION_BATCH))


def _padded(sequences: Sequence[Sequence[int]], padding: int, device: torch.device | None) -> dict[str, Tensor]:
    """Padding stands on the right: causal attention, and so every method, never sees it."""
    tokens = [torch.tensor(sequence) for sequence in sequences]
    mask = [torch.ones_like(each) for each in tokens]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding).to(device),
        "attention_mask": pad_sequence(mask, batch_first=True).to(device),
    }


def _start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the model was trained to see before every text, if anything."""
    start = tokenizer.bos_token_id
    return [start] if start is not None and tokenizer("a")["input_ids"][0] == start else []


def _end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text: the tokenizers of encoders call it a separator."""
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
