"""An adapter under another name is the same adapter."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.peft.tiny import bert, llama, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, rename_adapter

CONFIGS = {
    "rep": lambda: LorettaRepConfig(task_type="SEQ_CLS", train_norms=True, tensorize_modules=["pooler.dense"]),
    "adp": lambda: LorettaAdpConfig(task_type="SEQ_CLS", train_norms=True, dropout=0.1),
    "meta": lambda: MetaTTConfig(task_type="SEQ_CLS"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_everything_goes_by_the_new_name_and_computes_the_same(kind, tmp_path):
    model = get_peft_model(bert(), CONFIGS[kind](), "first")
    model.add_adapter("second", CONFIGS[kind]())
    shake(model).eval()
    expected = model(tokens()).logits
    trained = sum(p.requires_grad for p in model.parameters())
    rename_adapter(model, "first", "news")
    assert list(model.peft_config) == ["news", "second"]
    assert model.active_adapters == ["news"]
    assert not any(".first" in name for name in model.state_dict())
    assert sum(p.requires_grad for p in model.parameters()) == trained
    assert torch.equal(model(tokens()).logits, expected)
    model.set_adapter("second")
    model.set_adapter("news")
    assert torch.equal(model(tokens()).logits, expected)
    model.save_pretrained(tmp_path, selected_adapters=["news"])
    assert torch.equal(PeftModel.from_pretrained(bert(), tmp_path / "news")(tokens()).logits, expected)
    model.delete_adapter("second")
    assert torch.equal(model(tokens()).logits, expected)


def test_a_merged_adapter_is_unmerged_under_its_new_name():
    model = shake(get_peft_model(llama(), LorettaRepConfig(task_type="CAUSAL_LM"))).eval()
    expected = model(tokens()).logits
    model.merge_adapter()
    rename_adapter(model, "default", "news")
    model.unmerge_adapter()
    torch.testing.assert_close(model(tokens()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "new_name", "message"),
    [
        ("nobody", "x", "has no adapter 'nobody': its adapters are 'default'"),
        ("default", "default", "has an adapter 'default' already"),
        ("default", "../x", "cannot name an adapter"),
    ],
)
def test_names_that_cannot_be(name, new_name, message):
    model = get_peft_model(bert(), LorettaRepConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=message):
        rename_adapter(model, name, new_name)
    assert list(model.peft_config) == ["default"]
