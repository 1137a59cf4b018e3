"""`ttlib-peft count`: published sizes, PEFT's own counts, files as PEFT writes them, nothing allocated."""

import json

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, VBLoRAConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from tests.peft.tiny import bert
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, cli, trainable_parameters
from ttlib_peft.architectures import CountError, build_skeleton, find_config
from ttlib_peft.counting import CountSettings, compare_methods, count_adapter

PUBLISHED = {
    "bert-base": 109_483_778,
    "roberta-base": 124_647_170,
    "roberta-large": 355_361_794,
    "deberta-base": 139_193_858,  # the paper: 139.19M
    "deberta-v3-base": 184_423_682,
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-7b": 7_615_616_512,
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_sizes(model):
    skeleton = build_skeleton(*find_config(model))
    assert {own.device.type for own in skeleton.parameters()} == {"meta"}
    assert sum(own.numel() for own in skeleton.parameters()) == PUBLISHED[model]


@pytest.mark.parametrize(
    ("model", "method", "settings", "expected"),
    [
        ("llama-2-7b", "lora", {}, 4_194_304),  # the paper: 4.19M
        ("llama-2-13b", "lora", {}, 6_553_600),
        ("llama-2-70b", "lora", {}, 16_384_000),
        ("llama-2-7b", "prefix", {"virtual_tokens": 5}, 1_310_720),  # 1.31M
        ("llama-2-70b", "ia3", {}, 2_457_600),  # 2.45M
    ],
)
def test_the_neighbours_are_the_papers(model, method, settings, expected):
    (row,) = compare_methods(model, [method], CountSettings(**settings)).rows
    assert row.count.trained["adapters"] == row.count.trained["total"] == expected


def test_bitfit_is_every_bias_and_a_method_that_does_not_fit_says_why():
    (row,) = compare_methods("bert-base", ["bitfit"]).rows
    skeleton = build_skeleton(*find_config("bert-base"))
    biases = sum(own.numel() for name, own in skeleton.named_parameters() if name.endswith("bias"))
    assert row.count.trained["total"] == biases + 2 * 768
    (row,) = compare_methods("llama-2-7b", ["prefix"], CountSettings(task="SEQ_CLS")).rows
    assert row.count.trained["head"] == 2 * 4096


@pytest.mark.parametrize(
    "config",
    [
        LorettaRepConfig(r=4, tensor_rank=3, train_norms=True, task_type="SEQ_CLS"),
        LorettaAdpConfig(bottleneck=8, tensor_rank=3, task_type="SEQ_CLS", init_weights="zero"),
        LoraConfig(task_type="SEQ_CLS"),
    ],
    ids=["rep", "adp", "lora"],
)
def test_the_file_is_as_large_as_the_one_that_is_written(config, tmp_path):
    base = bert()
    counted = count_adapter(base.config, config, task="SEQ_CLS")
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path)
    assert counted.file_bytes == (tmp_path / "adapter_model.safetensors").stat().st_size
    assert counted.trained == trainable_parameters(model)
    assert counted.trained["total"] == sum(own.numel() for own in model.parameters() if own.requires_grad)


def test_prompts_and_shared_parameters_are_adapters():
    prefix = get_peft_model(bert(), PrefixTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    assert trainable_parameters(prefix)["adapters"] == 3 * 2 * 2 * 48
    config = VBLoRAConfig(num_vectors=5, vector_length=8, topk=2, target_modules=["query"])
    shared = trainable_parameters(get_peft_model(bert(), config))
    assert shared["adapters"] == shared["total"] > 5 * 8


class CpuTensors(TorchDispatchMode):
    """Remember the largest tensor on the CPU that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [own.nbytes for own in tree_leaves(out) if isinstance(own, torch.Tensor) and own.device.type == "cpu"]
        self.largest = max([self.largest, *sizes])
        return out


@pytest.mark.parametrize("config", [LorettaRepConfig, LorettaAdpConfig])
def test_seventy_billion_parameters_are_adapted_without_memory(config):
    skeleton = build_skeleton(*find_config("llama-2-70b"))
    with CpuTensors() as seen:
        model = get_peft_model(skeleton, config(train_norms=True, task_type="CAUSAL_LM"))
    assert {own.device.type for own in (*model.parameters(), *model.buffers())} == {"meta"}
    assert seen.largest <= 8  # the seed that is drawn


def test_the_command_prints_a_table_and_json():
    options = ["count", "deberta-base", "--paper", "--method", "loretta-rep", "--method", "loretta-adp"]
    result = CliRunner().invoke(cli.app, options, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert all(text in result.stdout for text in ("54,068", "99,034", "5 of 8", "the paper prints 0.10M", "caps"))
    read = json.loads(CliRunner().invoke(cli.app, [*options, "--json"]).stdout)
    assert [row["count"]["total"] for row in read["methods"]] == [54_068, 99_034]
    assert read["base"] == PUBLISHED["deberta-base"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["deberta-base", "--method", "loretta"], "unknown method 'loretta'"),
        (["deberta-base", "--rank", "0"], "rank"),
        (["gpt2", "--paper"], "the paper has no settings for 'gpt2'"),
        (["deberta-base", "--task", "NER"], "task"),
        (["./no/such/folder"], "no configuration that loads"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(options, message):
    result = CliRunner().invoke(cli.app, ["count", *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_model_and_no_method_are_refused(tmp_path):
    with pytest.raises(CountError, match="no method given"):
        compare_methods("gpt2", [])
    find_config("deberta-base")[0].save_pretrained(tmp_path)
    assert find_config(str(tmp_path))[0].model_type == "deberta"
    with pytest.raises(CountError, match="no CAUSAL_LM model of type 'deberta'"):
        build_skeleton(find_config("deberta-base")[0], "CAUSAL_LM")
