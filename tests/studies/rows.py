"""Small rows of every kind of task, and folders of them."""

import gzip
import json

from benchmarks.paper.tasks import TASKS

# One row of each task as the folder of data has it, told apart by a number in its texts.
ROWS = {
    "choice": lambda i: {
        "premise": f"It rained {i}.",
        "question": "effect",
        "choice1": "Wet.",
        "choice2": "Dry.",
        "label": i % 2,
    },
    "answer": lambda i: {"context": f"Rivers {i}.", "question": "Which?", "answers": ["Rhine", "the Rhine"]},
    "regression": lambda i: {"text": f"One {i}.", "text_pair": "Two.", "label": (i % 11) / 2},
    "classification": lambda i: {
        "text": f"One {i}.",
        "text_pair": "Two.",
        "label": i % 2,
        "span1_text": "a",
        "span2_text": "b",
    },
}


def rows_of(task, count):
    return [ROWS[TASKS[task].kind](i) for i in range(count)]


def write_gz(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_folder(root, task, *, train=20, validation=7):
    place = TASKS[task].folder
    return [
        write_gz(root / place.name / f"{name}.jsonl.gz", rows_of(task, count))
        for name, count in ((place.train, train), (place.validation, validation))
    ]


def of_fixed_rows(train, validation):
    """A source that has the same rows for every task."""

    class Fixed:
        def rows(self, task, split):
            return tuple(train if split == "train" else validation)

    return Fixed()
