"""Adapter folders: loaded bit by bit as they were saved, or refused with a reason."""

import json
import random
import shutil
import warnings

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from tests.peft.tiny import bert, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig
from ttlib_peft.loading import AdapterFileError

CONFIGS = [LorettaRepConfig, LorettaAdpConfig]
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.__name__)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    config = request.param(tensor_rank=2, target_modules=["output.dense"], modules_to_save=["classifier"], seed=0)
    model = shake(get_peft_model(bert(), config)).eval()
    model.save_pretrained(folder)
    return folder, model(tokens()).logits.detach()


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    return tmp_path / "copy"


def edit_weights(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if key.endswith(".flat"))
    edit(tensors, key)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return key


@pytest.mark.parametrize("how", [{}, {"low_cpu_mem_usage": True}])
@pytest.mark.parametrize("name", ["default", "other", "flat"])
def test_an_untouched_folder_loads_bit_by_bit(saved, how, name):
    model = PeftModel.from_pretrained(bert(), saved[0], adapter_name=name, **how)
    assert torch.equal(model(tokens()).logits, saved[1])
    assert len(model.peft_config[name].fingerprint) == 64


EDITS = {
    "missing": (lambda tensors, key: tensors.pop(key), "lacks .*flat"),
    "renamed": (lambda tensors, key: tensors.update({key + "x": tensors.pop(key)}), "lacks .*flat and has .*flatx"),
    "extra": (lambda tensors, key: tensors.update({key + "x": torch.ones(2)}), "has .*flatx, which the configuration"),
    "shape": (lambda tensors, key: tensors.update({key: tensors[key][1:].clone()}), "size mismatch for .*flat"),
    "integers": (lambda tensors, key: tensors.update({key: tensors[key].long()}), "is of torch.int64"),
    "complex": (lambda tensors, key: tensors.update({key: tensors[key] + 0j}), "is of torch.complex64"),
    "nan": (lambda tensors, key: tensors[key][:2].fill_(torch.nan), "has 2 of .* entries NaN or infinite"),
    "infinite": (lambda tensors, key: tensors[key][:1].fill_(torch.inf), "has 1 of .* entries NaN or infinite"),
    "one bit": (lambda tensors, key: tensors[key].view(torch.int32)[0].bitwise_xor_(1), "fingerprint"),
    "head": (lambda tensors, key: tensors["base_model.model.classifier.bias"].add_(1), "fingerprint"),
    "bad head": (lambda tensors, key: tensors["base_model.model.classifier.bias"].fill_(torch.nan), "classifier.*NaN"),
}


@pytest.mark.parametrize("how", [{}, {"low_cpu_mem_usage": True}])
@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_file_is_refused(folder, edit, how):
    change, message = EDITS[edit]
    edit_weights(folder, change)
    with pytest.raises(AdapterFileError, match=message):
        PeftModel.from_pretrained(bert(), folder, **how)


@pytest.mark.parametrize("setting", ["init_weights", "seed", "tensor_rank"])
def test_a_changed_configuration_is_refused(folder, setting):
    settings = json.loads((folder / SETTINGS).read_text())
    settings[setting] = {"init_weights": "zero", "seed": 1, "tensor_rank": 3}[setting]
    (folder / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(AdapterFileError):
        PeftModel.from_pretrained(bert(), folder)


def test_what_was_changed_on_purpose_loads_without_its_fingerprint(folder):
    edit_weights(folder, lambda tensors, key: tensors[key].mul_(0.5))
    settings = json.loads((folder / SETTINGS).read_text())
    settings["fingerprint"] = None
    (folder / SETTINGS).write_text(json.dumps(settings))
    PeftModel.from_pretrained(bert(), folder)


def test_bookkeeping_may_change(folder, saved):
    settings = json.loads((folder / SETTINGS).read_text())
    settings |= {"base_model_name_or_path": "elsewhere", "inference_mode": False, "revision": "main"}
    (folder / SETTINGS).write_text(json.dumps(settings))
    assert torch.equal(PeftModel.from_pretrained(bert(), folder)(tokens()).logits, saved[1])


@pytest.mark.parametrize("config_class", CONFIGS)
def test_state_dicts_set_by_hand_are_checked_but_may_differ_from_what_was_saved(config_class):
    config = config_class(target_modules=["output.dense"], seed=0)
    model = get_peft_model(bert(), config)
    state = {key: tensor + 1 for key, tensor in get_peft_model_state_dict(model).items()}
    bare = inject_adapter_in_model(config, bert())
    set_peft_model_state_dict(bare, state)
    key = next(key for key in state if key.endswith(".flat"))
    assert torch.equal(dict(bare.named_parameters())[_with_name(key)], state[key])
    before = {name: parameter.clone() for name, parameter in bare.named_parameters()}
    state[key] = state[key] * torch.nan
    with pytest.raises(AdapterFileError, match="NaN or infinite"):
        set_peft_model_state_dict(bare, state)
    assert all(torch.equal(before[name], now) for name, now in bare.named_parameters())


def _with_name(key):
    stem, _, last = key.removeprefix("base_model.model.").rpartition(".")
    return f"{stem}.default.{last}"


def mutate(folder, generator):
    """Damage one file in one of seven ways."""
    path = folder / generator.choice([WEIGHTS, WEIGHTS, SETTINGS])
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little") + 8
    place = generator.randrange(len(data))
    match generator.choice(["bit", "header bit", "cut", "noise", "repeat", "swap", "drop"]):
        case "bit":
            data[place] ^= 1 << generator.randrange(8)
        case "header bit":
            data[generator.randrange(min(header, len(data)))] ^= 1 << generator.randrange(8)
        case "cut":
            del data[place:]
        case "noise":
            data[place : place + 4] = generator.randbytes(4)
        case "repeat":
            data[place:place] = data[place : place + 9]
        case "swap":
            other = generator.randrange(len(data))
            data[place : place + 4], data[other : other + 4] = data[other : other + 4], data[place : place + 4]
        case "drop":
            del data[place : place + 3]
    path.write_bytes(data)


def outcome(model_of, folder, logits):
    """'refused', 'same', or 'silent' (loads, without a warning, to another function), or 'warned'."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(model_of(), folder)
        except Exception as refusal:  # PEFT's and safetensors' own refusals are of many classes
            return f"refused {type(refusal).__name__}"
    if torch.equal(model(tokens()).logits, logits):
        return "same"
    return "warned" if any("Unexpected keyword" in str(warning.message) for warning in said) else "silent"


def test_damage_never_loads_silently(saved, tmp_path):
    generator = random.Random(0)  # noqa: S311  # damage, not secrets
    for k in range(60):
        shutil.copytree(saved[0], tmp_path / str(k))
        mutate(tmp_path / str(k), generator)
        assert outcome(bert, tmp_path / str(k), saved[1]) != "silent"
