"""The folder of an adapter says how it is loaded, and its configuration is written whole or not at all."""

import json

import pytest
from peft import get_peft_model

from tests.peft.tiny import bert
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig


@pytest.mark.parametrize("config_class", [LorettaRepConfig, LorettaAdpConfig])
def test_the_card_says_how_to_load_the_adapter_once(config_class, tmp_path):
    model = get_peft_model(bert(), config_class(task_type="SEQ_CLS", train_norms=True))
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    method = model.peft_config["default"].peft_type.value
    assert f"KeyError: '{method}'" in card
    assert "import ttlib_peft\nfrom peft import PeftModel" in card
    assert "| `train_norms` | True |" in card
    assert "library_name: peft" in card
    (tmp_path / "README.md").write_text(card.replace("# Model Card for Model ID", "# Mine"))
    model.save_pretrained(tmp_path)
    again = (tmp_path / "README.md").read_text()
    assert again.count("## How to load this adapter") == 1
    assert "# Mine" in again


def test_a_configuration_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    LorettaRepConfig(r=3).save_pretrained(tmp_path)
    config = LorettaRepConfig(r=4)
    monkeypatch.setattr(config, "seed", object())  # no JSON
    with pytest.raises(TypeError, match="not JSON serializable"):
        config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "adapter_config.json"]


def test_a_file_in_the_way_is_left_as_it_is(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OSError, match="Not a directory|exists"):
        LorettaRepConfig().save_pretrained(file)
    assert file.read_text() == "x"
