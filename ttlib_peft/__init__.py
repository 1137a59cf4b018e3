"""ttlib_peft: the LoRETTA methods for Hugging Face PEFT.  Importing it registers them."""

from __future__ import annotations

from ttlib_peft import distributed, presets
from ttlib_peft.accounting import trainable_parameters
from ttlib_peft.compress import compress_lora
from ttlib_peft.compressed import load_compressed
from ttlib_peft.convert import convert_to_lora, save_as_lora
from ttlib_peft.explain import explain_targets
from ttlib_peft.loading import AdapterFileError
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig
from ttlib_peft.methods.loretta_rep import LorettaRepConfig
from ttlib_peft.methods.meta_tt import MetaTTConfig
from ttlib_peft.methods.tt_lora import TtLoraConfig
from ttlib_peft.rank_adaptation import RankAllocator, RankBudgetCallback
from ttlib_peft.reference_import import import_reference
from ttlib_peft.register import register_all
from ttlib_peft.rename import rename_adapter
from ttlib_peft.tt_linear import TTLinear, group_factors

register_all()

__all__ = [
    "AdapterFileError",
    "LorettaAdpConfig",
    "LorettaRepConfig",
    "MetaTTConfig",
    "RankAllocator",
    "RankBudgetCallback",
    "TTLinear",
    "TtLoraConfig",
    "compress_lora",
    "convert_to_lora",
    "distributed",
    "explain_targets",
    "group_factors",
    "import_reference",
    "load_compressed",
    "presets",
    "rename_adapter",
    "save_as_lora",
    "trainable_parameters",
]
