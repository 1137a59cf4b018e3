"""From a method's name to a model whose trainable parameters are that method's: the only place that knows how."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftConfig, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ttlib_peft.finetune.settings import FinetuneError, FinetuneSettings, Method
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig
from ttlib_peft.methods.loretta_rep import LorettaRepConfig
from ttlib_peft.targets import is_called

PEFT_METHODS: frozenset[Method] = frozenset({"loretta-rep", "loretta-adp", "lora"})


def make_trainable(model: PreTrainedModel, method: Method, settings: FinetuneSettings) -> nn.Module:
    """Turn a fresh base model into the trainable model of `method`; the head is trained by every method."""
    if method in PEFT_METHODS:
        return _with_adapter(model, method, settings)
    trained = trained_names(model, method)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def trained_names(model: PreTrainedModel, method: Method) -> frozenset[str]:
    """The parameters that `full`, `bitfit` or `head` trains, by name; a pure function of the architecture."""
    heads = tuple(f"{name}." for name in head_modules(model))
    names = [name for name, _ in model.named_parameters()]
    if method == "full":
        return frozenset(names)
    if method == "bitfit":  # every bias, those of the normalisation layers included, as in Zaken et al. 2022
        return frozenset(name for name in names if name.startswith(heads) or name.endswith("bias"))
    if method == "head":
        return frozenset(name for name in names if name.startswith(heads))
    msg = f"{method!r} trains an adapter, not a subset of the model's own parameters"
    raise ValueError(msg)


def head_modules(model: PreTrainedModel) -> list[str]:
    """The modules of a classifier that its pretrained body does not have, e.g. `["classifier"]`."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and next(module.parameters(), None) is not None
    ]


def check_target_modules(skeleton: PreTrainedModel, settings: FinetuneSettings) -> None:
    """Refuse target modules that the model does not have, before any of the methods is trained."""
    modules = dict(skeleton.named_modules())
    for target in settings.target_modules or ():
        if not any(is_called(name, target) for name in modules):
            linear = {name.split(".")[-1] for name, module in modules.items() if isinstance(module, nn.Linear)}
            msg = (
                f"target module {target!r} is not in {settings.model}; its linear layers are called "
                f"{', '.join(sorted(linear))}"
            )
            raise FinetuneError(msg)


def _with_adapter(model: PreTrainedModel, method: Method, settings: FinetuneSettings) -> nn.Module:
    try:
        return get_peft_model(model, _adapter_config(model, method, settings))
    except ValueError as error:  # raised by peft and by our configs, e.g. for target modules that do not exist
        msg = f"{method} does not fit this model: {error}"
        raise FinetuneError(msg) from error


def _adapter_config(model: PreTrainedModel, method: Method, settings: FinetuneSettings) -> PeftConfig:
    targets = None if settings.target_modules is None else list(settings.target_modules)
    # peft finds heads called `classifier` or `score` by itself; some architectures have one layer more.
    heads = head_modules(model)
    if method == "lora":
        return LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=targets,
            modules_to_save=heads,
            task_type=TaskType.SEQ_CLS,
        )
    shared: dict[str, Any] = {
        "tensor_rank": settings.tensor_rank,
        "init_weights": settings.init_weights,
        "seed": settings.seed,
        "train_norms": settings.train_norms,
        "target_modules": targets,
        "modules_to_save": heads,
        "task_type": TaskType.SEQ_CLS,
    }
    if method == "loretta-rep":
        return LorettaRepConfig(r=settings.rank, alpha=settings.alpha, **shared)
    return LorettaAdpConfig(bottleneck=settings.bottleneck, **shared)
