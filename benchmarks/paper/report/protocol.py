"""What was run, and how: the part of the page that a reader needs to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.paper.cells import Budget, Cell
from benchmarks.paper.methods import METHODS, Method
from benchmarks.paper.profile import TOLERANCE, Profile
from benchmarks.paper.report.aggregate import Evidence
from benchmarks.paper.report.table import Table, count
from benchmarks.paper.report.tables import rates
from benchmarks.paper.report.wording import column, listed, model, task
from benchmarks.paper.tasks import TASKS


def what_was_run(evidence: Evidence) -> Iterator[str]:
    """Profile, progress, software, budgets, data and learning rates."""
    profile = evidence.profile
    yield "## What was run, and how to run it again"
    yield f"Profile `{profile.name}`: {profile.description}. {_progress(evidence)}"
    yield (
        f"```sh\nmake study PROFILE={profile.name} DATA=folder    # or DATA=hub\n```\n\nmakes the runs that have no "
        "result yet, on two cores, and writes this page. All methods share one trainer: AdamW without weight decay, a "
        "rate that rises over the first 6 % of the steps and falls linearly to zero, gradients clipped at 1, "
        f"{_dtypes(evidence.cells)}, and the same rows in the same order for all methods of a seed. The same cell run "
        "again gives the same numbers on the same machine."
    )
    yield _software(evidence)
    yield "### Budgets"
    if profile.budgets:
        yield profile.budgets
    yield str(_budgets(evidence.cells))
    yield f"### Data\n\n{_data(evidence.cells)}"
    notes = [f"- {own.title}: {own.note.rstrip('.')}." for own in _methods(evidence) if own.note]
    if notes:
        yield "### Methods that are not quite the paper's\n\n" + "\n".join(notes)
    if profile.tuning:
        yield "### Learning rates"
        yield (
            f"Each method has the smallest rate whose mean over seeds is within {_points(100 * TOLERANCE)} of the "
            "best, on rows of the training split that no run trains on; the reported rows were never used to choose "
            "anything. Other tasks, and other settings of a method, take the rate that its default got."
            f"{_stand_ins(profile)} Tried: {_tried(profile)}; a star marks a rate at the edge, which might be better "
            "still outside."
        )
        yield str(rates(evidence))


def _dtypes(cells: Iterable[Cell]) -> str:
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        found.setdefault(cell.dtype, {})[model(cell.model)] = None
    others = [
        f"of {listed(names)} the frozen weights and the products in {dtype}"
        for dtype, names in found.items()
        if dtype != "float32"
    ]
    return f"float32 ({'; '.join(others)})" if others else "float32"


def _tried(profile: Profile) -> str:
    """The rates and how many seeds each was tried with, and on what where that is not the same everywhere."""
    grids: dict[str, dict[str, None]] = {}
    for cells in profile.tuning.values():
        rates = sorted({cell.learning_rate for cell in cells if cell.learning_rate is not None})
        seeds = len({cell.seed for cell in cells})
        grid = f"{', '.join(f'{rate:g}' for rate in rates)} with {seeds} seed{'' if seeds == 1 else 's'}"
        grids.setdefault(grid, {}).update(dict.fromkeys(task(name) for cell in cells for name in cell.tasks))
    if len(grids) == 1:
        return next(iter(grids))
    return "; ".join(f"{grid} on {listed(names)}" for grid, names in grids.items())


def _points(number: float) -> str:
    return f"{number:g} point{'' if number == 1 else 's'}"


def _stand_ins(profile: Profile) -> str:
    """Which task's pick the others take."""
    served: dict[str, list[str]] = {}
    for name, stand_in in profile.tuned_on.items():
        if name != stand_in:
            served.setdefault(stand_in, []).append(task(name))
    parts = (f"that of {task(name)} for {', '.join(others)} too" for name, others in served.items())
    return f" Tasks share picks: {'; '.join(parts)}." if served else ""


def _methods(evidence: Evidence) -> list[Method]:
    return [METHODS[name] for name in dict.fromkeys(cell.method for cell in evidence.cells) if name in METHODS]


def _progress(evidence: Evidence) -> str:
    """Runs that several tables share count once."""
    tuning = {cell.key for cells in evidence.profile.tuning.values() for cell in cells}
    reported = {cell.key for cell in evidence.cells}
    outcomes = {key: line.outcome for key, line in evidence.lines.items() if key in tuning | reported}
    diverged = sum(own["status"] == "diverged" for key, own in outcomes.items() if key in reported)
    seconds = sum(own["cpu_seconds"] for own in outcomes.values())
    return (
        f"{len(reported & outcomes.keys())} of {len(evidence.cells)} runs are done, {diverged} of them diverged; "
        f"{len(tuning & outcomes.keys())} of {len(tuning)} runs that pick a learning rate are done. Together they took "
        f"{seconds / 3600:.1f} hours of CPU time."
    )


def _software(evidence: Evidence) -> str:
    commits = sorted({line.commit for line in evidence.lines.values()})
    versions: dict[str, set[str]] = {}
    for line in evidence.lines.values():
        for name, version in line.versions.items():
            versions.setdefault(name, set()).add(str(version))
    if not versions:
        return "No results yet."
    told = ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))
    changed = " (+dirty: with changes that are not committed)" if any("+" in commit for commit in commits) else ""
    return f"Commits of the code: {', '.join(commits)}{changed}. {told}."


def _budgets(cells: Iterable[Cell]) -> Table:
    places: dict[tuple[str, tuple[str, ...], Budget], set[int]] = {}
    for cell in cells:
        places.setdefault((cell.model, cell.tasks, cell.budget), set()).add(cell.seed)
    return Table(
        ("model", "task", "steps", "rows a step", "tokens a row", "training rows", "seeds"),
        [
            (
                model(name),
                " > ".join(map(task, tasks)),
                count(budget.steps),
                count(budget.batch_size),
                count(budget.max_length),
                "all" if budget.examples is None else count(budget.examples),
                str(len(seeds)),
            )
            for (name, tasks, budget), seeds in places.items()
        ],
    )


def _data(cells: Iterable[Cell]) -> str:
    names = dict.fromkeys(name for cell in cells for name in cell.tasks)
    known = [TASKS[name] for name in names if name in TASKS]
    return "\n".join(f"- {column((own.name,))}: {own.note or 'The official rows.'}" for own in known)
