import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.nn.parallel import DistributedDataParallel

from tests.peft import tiny
from tests.peft.spread import CONFIGS, batch, bert, llama, refusal, trained, whole, with_two_adapters
from ttlib.errors import TTFileError
from ttlib_peft.distributed import (
    PeerError,
    gather_adapter,
    load_adapter,
    save_adapter,
    shard,
)

MODELS = {"rep": lambda: llama("rep", torch.float32).eval(), "adp": bert}


def wrapped(model, wrapper):
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    if wrapper == "hybrid":  # replicas of shards
        return shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))
    return shard(model, offload_policy=CPUOffloadPolicy(pin_memory=False) if wrapper == "offload" else None)


def _save(rank, kind, wrapper, folder):
    model = wrapped(tiny.shake(MODELS[kind]()), wrapper)
    gathered = gather_adapter(model)
    written = save_adapter(model, folder)
    with torch.no_grad():
        return gathered, written, model(input_ids=batch(0, 2)).logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp", "hybrid", "offload"])
def test_saved_as_if_alone(ranks, tmp_path, kind, wrapper):
    alone = tiny.shake(MODELS[kind]())
    alone.save_pretrained(tmp_path / "alone")
    (gathered, written, logits), (nothing, also_written, _) = ranks.run(_save, kind, wrapper, tmp_path / "shared")
    assert nothing == {}
    assert written == also_written == tmp_path / "shared"
    expected = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    for tensors in (gathered, load_file(written / "adapter_model.safetensors")):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert sorted(p.name for p in written.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in (written, tmp_path / "alone")]
    for config in configs:
        config["target_modules"].sort()  # a set
    assert configs[0] == configs[1]
    base = tiny.llama() if kind == "rep" else tiny.bert()
    loaded = PeftModel.from_pretrained(base, written).eval()
    torch.testing.assert_close(loaded(input_ids=batch(0, 2)).logits, logits, rtol=1e-5, atol=1e-6)


def _save_two(rank, folder):
    model = shard(tiny.shake(with_two_adapters()))
    model(batch(0, 2))  # leaves the root whole
    return save_adapter(model, folder), save_adapter(model, folder, "second")


def test_adapters_of_other_names_get_folders_of_their_own(ranks, tmp_path):
    (tmp_path / "kept.txt").write_text("here before")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    (first, second), _ = ranks.run(_save_two, tmp_path)
    assert (first, second) == (tmp_path, tmp_path / "second")
    model = tiny.shake(with_two_adapters()).eval()
    for name, folder in (("default", first), ("second", second)):
        own = PeftModel.from_pretrained(tiny.llama(torch.float64), folder).eval()
        model.set_adapter(name)
        assert torch.equal(own(batch(0, 2)).logits, model(batch(0, 2)).logits)
    assert sorted(p.name for p in second.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert (tmp_path / "kept.txt").read_text() == "here before"
    assert "Mine." in (tmp_path / "README.md").read_text()
    assert "license: mit" in (tmp_path / "README.md").read_text()


def _save_where_it_cannot_be(rank, file):
    model = shard(llama("rep"))
    return refusal(save_adapter, model, file), refusal(save_adapter, model, file.parent / "good")


def test_what_fails_on_rank_0_is_raised_on_every_rank(ranks, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    first, second = ranks.run(_save_where_it_cannot_be, file)
    assert first[0][0] is FileExistsError
    assert second[0][0] is PeerError
    assert "FileExistsError" in second[0][1]
    assert str(file) in second[0][1]
    assert first[1] is second[1] is None  # and nobody is left waiting


def _load(rank, kind, wrapper, folder):
    model = wrapped(MODELS[kind](), wrapper)
    load_adapter(model, folder)
    with torch.no_grad():
        return whole(model), model(input_ids=batch(0, 2)).logits


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp", "hybrid", "offload"])
def test_loaded_into_a_wrapped_model(ranks, tmp_path, kind, wrapper):
    alone = tiny.shake(MODELS[kind]())
    alone.save_pretrained(tmp_path)
    logits = alone(input_ids=batch(0, 2)).logits
    for tensors, own in ranks.run(_load, kind, wrapper, tmp_path):
        assert all(torch.equal(tensors[name], parameter) for name, parameter in trained(alone).items())
        torch.testing.assert_close(own, logits, rtol=1e-5, atol=1e-6)


def test_saved_and_loaded_alone(tmp_path):
    model = tiny.shake(with_two_adapters())
    fresh = with_two_adapters()
    load_adapter(fresh, save_adapter(model, tmp_path, "second"), "second")
    state, expected = gather_adapter(fresh, "second"), gather_adapter(model, "second")
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    model.base_model.model.lm_head.weight.data.zero_()
    copied = gather_adapter(model)
    tiny.shake(model)
    assert not any(
        torch.equal(copied[name], now) for name, now in gather_adapter(model).items() if "initial" not in name
    )


def test_cores_saved_without_a_start_are_loaded_without_one(tmp_path):
    plain = tiny.shake(llama("rep", init_weights="zero")).eval()
    model = llama("rep").eval()
    load_adapter(model, save_adapter(plain, tmp_path))
    assert torch.equal(model(batch(0, 2)).logits, plain(batch(0, 2)).logits)


def without_one(tensors):
    tensors.pop(max(tensors))


def with_another(tensors):
    tensors["base_model.model.new"] = torch.zeros(1)


def with_a_longer_one(tensors):
    name = max(tensors)
    tensors[name] = torch.cat([tensors[name], torch.zeros(1)])


def with_nan(tensors):
    tensors[max(tensors)][0] = float("nan")


WRONG = {
    "lacks": without_one,
    "unknown base_model.model.new": with_another,
    "shape": with_a_longer_one,
    "NaN": with_nan,
}


def _load_wrong(rank, folders):
    model = shard(llama("rep", init_weights="zero"))
    before = whole(model)
    errors = [refusal(load_adapter, model, folder) for folder in folders]
    return errors, all(torch.equal(before[name], now) for name, now in whole(model).items())


def test_wrong_files_are_refused_on_every_rank(ranks, tmp_path):
    good = save_adapter(llama("rep", init_weights="zero"), tmp_path / "good")
    for name, spoil in WRONG.items():
        tensors = load_file(good / "adapter_model.safetensors")
        spoil(tensors)
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "adapter_model.safetensors")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "adapter_model.safetensors").write_bytes(
        (good / "adapter_model.safetensors").read_bytes()[:1000]
    )
    folders = [tmp_path / name for name in (*WRONG, "cut", "absent")]
    first, second = ranks.run(_load_wrong, folders)
    assert first[1]
    assert second[1]
    assert [error for error, _ in first[0]] == [TTFileError] * 5 + [FileNotFoundError]
    assert [error for error, _ in second[0]] == [PeerError] * 6
    for (_, message), (_, other), word in zip(first[0], second[0], (*WRONG, "no safetensors", ""), strict=True):
        assert word in message
        assert message in other


def test_other_models_are_refused(tmp_path):
    model = llama("rep")
    for call in (gather_adapter, lambda m, name: save_adapter(m, tmp_path, name)):
        with pytest.raises(TypeError, match="no adapter 'other'; it has \\['default'\\]"):
            call(model, "other")
    with pytest.raises(TypeError, match="no adapter 'default'; it has none"):
        load_adapter(nn.Linear(2, 2), tmp_path)
    lora = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"]), "/out")  # PEFT takes that name
    with pytest.raises(ValueError, match="adapter '/out' cannot have a folder"):
        save_adapter(lora, tmp_path, "/out")
    injected = tiny.llama()
    injected.add_adapter(CONFIGS["rep"](), adapter_name="default")
    with pytest.raises(TypeError, match="no PeftModel"):
        save_adapter(injected, tmp_path)
    assert len(gather_adapter(injected)) == 16


def test_other_methods_are_gathered_and_saved_too(tmp_path):
    model = tiny.shake(get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"]))).eval()
    loaded = PeftModel.from_pretrained(tiny.llama(), save_adapter(model, tmp_path)).eval()
    assert torch.equal(loaded(batch(0, 2)).logits, model(batch(0, 2)).logits)


def test_compiled_models_are_looked_into():
    model = llama("rep")
    assert gather_adapter(torch.compile(model, backend="eager")).keys() == gather_adapter(model).keys()
