"""Adapters on quantised layers, through PEFT's own backends (bitsandbytes on the CPU, where it is installed)."""

import warnings

import pytest
import torch
from peft import get_peft_model

from tests.peft.tiny import shake
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    bitsandbytes = pytest.importorskip("bitsandbytes")

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def quantised(bits):
    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 64)
    if bits == 8:
        layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False)
    else:
        layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")
    layer.load_state_dict(dense.state_dict())
    return torch.nn.Sequential(layer.to("cpu"))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("config_class", [LorettaRepConfig, LorettaAdpConfig])
def test_quantised_layers_start_where_they_were_and_train(config_class, bits):
    base = quantised(bits)
    before = base(X)
    model = get_peft_model(base, config_class(target_modules=["0"]))
    assert torch.equal(model(X), before)
    shake(model)(X).sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n.endswith("flat"))
    assert "quantization_backend='bnb" in repr(model)


def test_layers_in_8_bit_merge_to_the_precision_of_their_format():  # 4 bit on the CPU: PEFT leaves it out as well
    model = shake(get_peft_model(quantised(8), LorettaRepConfig(target_modules=["0"]))).eval()
    expected = model(X)
    model.merge_adapter()
    error = torch.linalg.vector_norm(model(X) - expected) / torch.linalg.vector_norm(expected)
    assert error < 0.03
    with torch.no_grad():
        layer = model.base_model.model[0]
        layer.unmerge()
        layer.loretta_rep_A["default"].flat[0] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter()
    assert not layer.merged
