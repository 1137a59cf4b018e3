"""How a language model is asked: one prompt a task, and what may follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.paper.tasks import Row, Task


@dataclass(frozen=True, slots=True)
class Example:
    """One row in words: `context`, then `question`, then one of `options`.

    Attributes:
        context: what may be cut, from its beginning, where the row is too long; may be empty.
        question: what ends the prompt, without a space.
        options: what may follow, each with its space; where the answer is written freely, only the one to learn.
        gold: the right one of the options; None where the answer is written freely.
        answers: the accepted answers where it is written freely.
    """

    context: str
    question: str
    options: tuple[str, ...]
    gold: int | None
    answers: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """The option to learn."""
        return self.options[self.gold or 0]


class UnknownPromptError(ValueError):
    """A task that language models are not asked."""


def example(task: Task, row: Row) -> Example:
    """Put a row of the task into words; UnknownPromptError for a task without a prompt."""
    if task.name not in PROMPTS:
        msg = f"no prompt for the task {task.name}; language models are asked {', '.join(PROMPTS)}"
        raise UnknownPromptError(msg)
    return PROMPTS[task.name](row)


def _copa(row: Row) -> Example:
    """One sentence, so that both options are judged as its end."""
    joint = {"cause": "because", "effect": "so"}[row["question"]]
    options = tuple(f" {_inside_a_sentence(row[name])}" for name in ("choice1", "choice2"))
    return Example("", f"{row['premise'].strip().rstrip('.')} {joint}", options, row["label"])


def _inside_a_sentence(text: str) -> str:
    """Without its capital, unless the first word is I.

    >>> _inside_a_sentence("The sun was rising."), _inside_a_sentence("I'm cold.")
    ('the sun was rising.', "I'm cold.")
    """
    text = text.strip()
    return text if text.split("'")[0].split(" ")[0] == "I" else text[:1].lower() + text[1:]


def _cb(row: Row) -> Example:
    question = f"\nQuestion: Is it true that {row['text_pair'].strip()}?\nAnswer:"
    return Example(row["text"].strip(), question, (" Yes", " No", " Maybe"), row["label"])


def _boolq(row: Row) -> Example:
    return Example(row["text"].strip(), f"\nQuestion: {row['text_pair'].strip()}?\nAnswer:", _YES, row["label"])


def _wsc(row: Row) -> Example:
    return Example(row["text"].strip(), f"\nQuestion: {row['text_pair'].strip()}\nAnswer:", _YES, row["label"])


def _written(row: Row) -> Example:
    answers = tuple(row["answers"])
    question = f"\nQuestion: {row['question'].strip()}\nAnswer:"
    return Example(row["context"].strip(), question, (f" {answers[0].strip()}",), None, answers)


def _record(row: Row) -> Example:
    answers = tuple(row["answers"])
    question = f"\nSentence: {row['question'].strip()}\n@placeholder:"
    return Example(row["context"].strip(), question, (f" {answers[0].strip()}",), None, answers)


_YES = (" No", " Yes")  # as the labels of the tasks

PROMPTS: Mapping[str, Callable[[Row], Example]] = {
    "copa": _copa,
    "cb": _cb,
    "boolq": _boolq,
    "wsc": _wsc,
    "squad": _written,
    "drop": _written,
    "record": _record,
}
