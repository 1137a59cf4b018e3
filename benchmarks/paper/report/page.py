"""docs/evidence.md, written from the lines of the results: sentences are chosen by the numbers, none is typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.paper import results as result_lines
from benchmarks.paper.profile import Profile
from benchmarks.paper.report import claims, costs, sentences, tables
from benchmarks.paper.report.aggregate import Evidence, Study
from benchmarks.paper.report.choice import where_others_are_better
from benchmarks.paper.report.figures import draw_all
from benchmarks.paper.report.protocol import what_was_run
from benchmarks.paper.report.table import Table
from ttlib._files import replacing

_HEAD = """# Evidence

Written by `make study` from the results of single runs; no number on this page was typed by hand.

The tables and figures of the LoRETTA paper (Yang et al., NAACL 2024), made again at the size of a small machine with
several seeds and with the controls that the paper lacks. A verdict below is about the claim at this size: small models
and short training may turn out otherwise than large ones.
"""


@dataclass(frozen=True)
class Section:
    """A study on the page.

    Attributes:
        study: its name in the profile.
        title, about: what the reader must know beforehand.
        table: the numbers.
        says: sentences from the numbers.
        figures: names of `figures.draw_all`, with their captions.
    """

    study: str
    title: str
    about: str
    table: Callable[[Study], Table]
    says: Callable[[Study], Iterable[str]]
    figures: Mapping[str, str]


_READING = (
    "Mean ± standard deviation over seeds, in percent, of the weights after the last step. Bold: the best mean of a "
    "column and all that are within one standard deviation of it (the larger one of the two). Methods stand in the "
    "order of what they train beside the head; `rest` is trained weights of the base model, biases included."
)
_ONE_RATE = "All settings have the learning rate of the default: one that wants another stands lower than it could."
SECTIONS = (
    Section("t1", "Table 1: methods on an encoder", _READING, tables.methods, sentences.averages,
            {"pareto": "Figure 1: average score against trained parameters"}),
    Section("lm", "Tables 2 and 3: methods on a language model", _READING + " The language model's head is frozen.",
            tables.methods, sentences.averages,
            {"pareto_language": "Average score against trained parameters, language model"}),
    Section("t4", "Table 4: one task after the other",
            "One adapter and one head learn the tasks in this order; scores are taken after the last. Lost: points "
            "since right after the task was learnt. The paper's Table 4 scores MRPC by accuracy.",
            tables.sequences, sentences.kept,
            {"forgetting": "Scores after each task of the sequence, mean and standard deviation"}),
    Section("t6", "Table 6: tensor ranks", f"The rank of every bond. {_ONE_RATE}",
            partial(tables.settings, names=("tensor_rank",)), sentences.spread,
            {"ranks": "Score against tensor rank, mean and standard deviation"}),
    Section("t7", "Table 7: shapes",
            f"The modes of the trains; the default is what the search for shapes proposes. {_ONE_RATE}",
            partial(tables.settings, names=("tensor_shape",)), sentences.spread,
            {"shapes": "Score by shape, mean and standard deviation"}),
    Section("t11", "Table 11: norms and head", f"What is trained beside the adapter. {_ONE_RATE}",
            partial(tables.settings, names=("train_norms", "head")), sentences.spread, {}),
    Section("init", "Starts",
            f"How the cores begin. Losses of training batches, and of the evaluation at the end. {_ONE_RATE}",
            tables.starts, sentences.first_batches,
            {"initialisation": "Training loss above that of the default start, on the same batches"}),
    Section("curves", "Figure 4: evaluation loss", "Many epochs over few rows, evaluated on the way.",
            tables.curves, sentences.climbing, {"curves": "Evaluation loss, mean and standard deviation"}),
)  # fmt: skip


def write(profile: Profile, results: Path, page: Path) -> None:
    """Write the page and its figures from what there is of results; the same lines give the same bytes.

    Costs are read from costs.json beside *results*, figures go to a folder beside *page* with its name.
    """
    lines = result_lines.read(results)
    costs_file = results.with_name("costs.json")
    measured = json.loads(costs_file.read_text(encoding="utf-8")) if costs_file.exists() else None
    figures = draw_all(profile, lines, page.with_suffix(""), costs=measured)
    links = {name: path.relative_to(page.parent).as_posix() for name, path in figures.items()}
    text = render(Evidence(profile, lines, measured), links)
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(evidence: Evidence, figures: Mapping[str, str]) -> str:
    """The page as text; *figures* are links by name."""
    left = dict(figures)
    parts = [_HEAD, *_verdicts(evidence), *_choice(evidence)]
    for section in SECTIONS:
        parts += _section(section, evidence.study(section.study), left)
    parts += costs.sections(evidence, left)
    parts += [_image(name.replace("_", " "), link) for name, link in left.items()]
    parts += what_was_run(evidence)
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _verdicts(evidence: Evidence) -> Iterator[str]:
    found = claims.verdicts(evidence)
    yield f"## The paper's claims\n\n{claims.summary(found)}\n\n{claims.table(found)}"


def _choice(evidence: Evidence) -> Iterator[str]:
    found = [*where_others_are_better(evidence), *costs.where_others_are_cheaper(evidence)]
    yield "## Where LoRETTA is not the best choice"
    yield "\n".join(f"- {sentence}" for sentence in found) if found else "Nothing has been run yet."


def _section(section: Section, study: Study, figures: dict[str, str]) -> Iterator[str]:
    yield f"## {section.title}"
    if study.planned == 0:
        yield "This profile does not have these runs."
        return
    yield f"{section.about} {study.progress[0].upper()}{study.progress[1:]}."
    yield str(section.table(study))
    said = "".join(section.says(study)).strip()
    if said:
        yield said[0].upper() + said[1:]
    for name, caption in section.figures.items():
        if name in figures:
            yield _image(caption, figures.pop(name))


def _image(caption: str, link: str) -> str:
    return f"![{caption}]({link})"
