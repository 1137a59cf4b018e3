"""How many numbers a method trains on a model, against the methods it competes with; nothing is loaded or allocated."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    VeraConfig,
    get_peft_model,
    get_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ttlib.shapes import check_integer
from ttlib_peft.accounting import trainable_parameters
from ttlib_peft.architectures import CountError, Task, build_skeleton, find_config, usual_task
from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig, LorettaAdpLinear
from ttlib_peft.methods.loretta_rep import LorettaRepConfig
from ttlib_peft.presets import PAPER, paper
from ttlib_peft.tensorized import TensorizedLinear
from ttlib_peft.tuner import tt_modules

CountedMethod = Literal["loretta-rep", "loretta-adp", "lora", "adapters", "bitfit", "ia3", "prefix", "vera"]
METHODS: tuple[CountedMethod, ...] = get_args(CountedMethod)

_ADAPTER = "default"
_SEQ_CLS_HEADS = ("classifier.", "score.")  # what PEFT adds to modules_to_save
_SETTINGS = ("rank", "tensor_rank", "bottleneck", "virtual_tokens", "vera_rank", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class CountSettings:
    """The sizes of the methods to compare.

    Args:
        rank: r of loretta-rep and lora.
        tensor_rank: rank of the bonds of loretta-rep and loretta-adp.
        bottleneck: width of loretta-adp and of the dense adapters.
        virtual_tokens: length of the prefix.
        vera_rank: r of VeRA's frozen projections.
        labels: classes of a classifier; None for what the configuration says.
        train_norms: train the norms with the LoRETTA methods too.
        paper: take the LoRETTA methods as the paper's tables have them (`presets.paper`), not by these sizes.
        task: None for the task the model is usually fine-tuned for.
    """

    rank: int = 8
    tensor_rank: int = 5
    bottleneck: int = 64
    virtual_tokens: int = 8
    vera_rank: int = 256
    labels: int | None = None
    train_norms: bool = False
    paper: bool = False
    task: Task | None = None

    def __post_init__(self) -> None:
        for name in _SETTINGS:
            if getattr(self, name) is not None or name != "labels":
                check_integer(getattr(self, name), name=name)
        if self.task is not None:
            _check_task(self.task)


@dataclass(frozen=True, slots=True)
class MethodCount:
    """What one method trains on one model.

    Attributes:
        trained: adapters, norms, head, body (biases of the base model) and total, as `trainable_parameters`.
        base: all parameters of the model before.
        file_bytes: size of adapter_model.safetensors, or of a file with just what is trained.
        matrix_rank: the largest rank that the trained matrices of an adapter can have; None where no train is.
        nominal_rank: r, or the bottleneck: where it is larger than `matrix_rank`, it is a size and not a rank.
    """

    trained: Mapping[str, int]
    base: int
    file_bytes: int
    matrix_rank: int | None = None
    nominal_rank: int | None = None

    @property
    def percent(self) -> float:
        """What is trained, in percent of the base model."""
        return 100 * self.trained["total"] / self.base

    @property
    def is_capped(self) -> bool:
        """Whether the tensor rank leaves the matrices less rank than r, or the bottleneck, says."""
        return self.matrix_rank is not None and self.matrix_rank < (self.nominal_rank or 0)


@dataclass(frozen=True, slots=True)
class CountRow:
    """One method in a comparison: its sizes in words, and its count or why there is none."""

    method: CountedMethod
    setting: str
    count: MethodCount | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare_methods` found."""

    model: str
    task: Task
    base: int
    rows: tuple[CountRow, ...]


def count_adapter(model: str | PretrainedConfig, config: PeftConfig, *, task: Task | None = None) -> MethodCount:
    """Count what a PEFT configuration trains on a model, from the model's classes and PEFT's, without any number.

    >>> from ttlib_peft import LorettaRepConfig
    >>> counted = count_adapter("llama-2-70b", LorettaRepConfig(r=8, tensor_rank=5, task_type="CAUSAL_LM"))
    >>> counted.trained["adapters"], counted.matrix_rank, counted.nominal_rank
    (170400, 5, 8)

    *model* is a name that `find_config` knows or a configuration; *task* is None for its usual one.  *config* is left
    as it is.  Raises CountError for a model that is not there and what `get_peft_model` raises.
    """
    own, usual = find_config(model) if isinstance(model, str) else (model, usual_task(model))
    return _count_config(build_skeleton(own, task or usual), config)


def compare_methods(
    model: str, methods: Iterable[CountedMethod] = METHODS, settings: CountSettings | None = None
) -> Comparison:
    """Count what each of several methods trains on a model.

    >>> compared = compare_methods("deberta-base", ["loretta-rep", "lora"])
    >>> [(row.method, row.count.trained["adapters"]) for row in compared.rows]
    [('loretta-rep', 10380), ('lora', 294912)]

    LoRETTA, LoRA, IA3, VeRA and prefix tuning are built by PEFT on the meta device with its default targets; BitFit
    is every parameter called bias; dense adapters stand where LoRETTA_adp's do, with biases (Houlsby et al. 2019).
    A classifier's head is trained by all of them.  A method that does not fit the model has a note in place of a
    count.  Raises CountError for unknown models and methods, ShapeError for sizes below 1.
    """
    chosen, wanted = settings or CountSettings(), tuple(dict.fromkeys(methods))
    for method in wanted:
        if method not in METHODS:
            msg = f"unknown method {method!r}; the methods are {', '.join(METHODS)}"
            raise CountError(msg)
    if not wanted:
        msg = f"no method given; choose from {', '.join(METHODS)}"
        raise CountError(msg)
    if chosen.paper and not any(name == model for name, _ in PAPER):
        names = ", ".join(dict.fromkeys(name for name, _ in PAPER))
        msg = f"the paper has no settings for {model!r}; it has them for {names}"
        raise CountError(msg)
    config, usual = find_config(model)
    task = chosen.task or usual

    def build() -> PreTrainedModel:
        return build_skeleton(config, task, labels=chosen.labels)

    rows = tuple(_row(method, build, model, task, chosen) for method in wanted)
    return Comparison(model, task, _parameters(build()), rows)


def _row(
    method: CountedMethod, build: Callable[[], PreTrainedModel], model: str, task: Task, chosen: CountSettings
) -> CountRow:
    if method == "bitfit":
        return CountRow(method, "all biases", _count_bitfit(build(), task))
    if method == "adapters":
        setting = f"bottleneck {chosen.bottleneck}, dense"
        try:
            return CountRow(method, setting, _count_dense_adapters(build(), chosen, task), "by formula")
        except ValueError as error:
            return CountRow(method, setting, None, _one_line(error))
    setting, note, make = _peft_method(method, model, task, chosen)
    try:
        return CountRow(method, setting, _count_config(build(), make()), note)
    except (ValueError, KeyError, NotImplementedError) as error:  # what PEFT raises where a method does not fit
        return CountRow(method, setting, None, _one_line(error))


def _peft_method(
    method: CountedMethod, model: str, task: Task, chosen: CountSettings
) -> tuple[str, str, Callable[[], PeftConfig]]:
    """The sizes of a method in words, a note, and what makes its configuration."""
    short = cast(Literal["rep", "adp"], method.removeprefix("loretta-"))
    if chosen.paper and (model, short) in PAPER:
        known = PAPER[model, short]
        setting = f"{known.width}, tensor rank {known.rank}"
        return setting, f"the paper prints {known.printed}", lambda: paper(model, short)
    shared: dict[str, Any] = {"tensor_rank": chosen.tensor_rank, "train_norms": chosen.train_norms, "task_type": task}
    rank, tensor_rank = f"r {chosen.rank}", f"tensor rank {chosen.tensor_rank}"
    settings: dict[str, tuple[str, Callable[[], PeftConfig]]] = {
        "loretta-rep": (f"{rank}, {tensor_rank}", lambda: LorettaRepConfig(r=chosen.rank, **shared)),
        "loretta-adp": (
            f"bottleneck {chosen.bottleneck}, {tensor_rank}",
            lambda: LorettaAdpConfig(bottleneck=chosen.bottleneck, **shared),
        ),
        "lora": (rank, lambda: LoraConfig(r=chosen.rank, task_type=task)),
        "ia3": ("", lambda: IA3Config(task_type=task)),
        "prefix": (
            f"{chosen.virtual_tokens} tokens",
            lambda: PrefixTuningConfig(num_virtual_tokens=chosen.virtual_tokens, task_type=task),
        ),
        "vera": (f"r {chosen.vera_rank}", lambda: VeraConfig(r=chosen.vera_rank, task_type=task)),
    }
    return settings[method][0], "", settings[method][1]


def _count_config(skeleton: PreTrainedModel, config: PeftConfig) -> MethodCount:
    base, adapted = _parameters(skeleton), _adapted(skeleton, config)
    trained = {name: own for name, own in adapted.named_parameters() if own.requires_grad}
    # PEFT copies a prompt to the CPU before saving it; it saves the prompt and what is trained beside it
    saved = trained if config.is_prompt_learning else get_peft_model_state_dict(adapted, save_embedding_layers=False)
    trains = [
        train
        for layer in adapted.modules()
        if isinstance(layer, TensorAdapterLayer) and not isinstance(layer, TensorizedLinear)
        for train in tt_modules(layer, _ADAPTER)
    ]
    return MethodCount(
        trained=trainable_parameters(adapted),
        base=base,
        file_bytes=_file_bytes(saved),
        matrix_rank=min((train.matrix_rank for train in trains), default=None),
        nominal_rank=min((train.nominal_rank for train in trains), default=None),
    )


def _adapted(skeleton: PreTrainedModel, config: PeftConfig) -> nn.Module:
    own = copy.deepcopy(config)
    if isinstance(own, TensorAdapterConfig) and own.seed is None:
        own.seed = 0  # counting draws nothing from the generator of its caller
    with torch.device("meta"):
        return get_peft_model(skeleton, own, low_cpu_mem_usage=True)


def _count_bitfit(skeleton: PreTrainedModel, task: Task) -> MethodCount:
    """Count every bias (Zaken et al. 2022), those of the norms included, and the classifier that PEFT trains too."""
    for name, own in skeleton.named_parameters():
        own.requires_grad_(name.endswith("bias") or (task == "SEQ_CLS" and name.startswith(_SEQ_CLS_HEADS)))
    trained = {name: own for name, own in skeleton.named_parameters() if own.requires_grad}
    return MethodCount(trainable_parameters(skeleton), _parameters(skeleton), _file_bytes(trained))


def _count_dense_adapters(skeleton: PreTrainedModel, chosen: CountSettings, task: Task) -> MethodCount:
    """Count two dense layers with biases wherever LoRETTA_adp stands."""
    base, width = _parameters(skeleton), chosen.bottleneck
    adapted = _adapted(skeleton, LorettaAdpConfig(bottleneck=width, tensor_rank=1, task_type=task))
    layers = [layer for layer in adapted.modules() if isinstance(layer, LorettaAdpLinear)]
    adapters = sum(2 * layer.out_features * width + width + layer.out_features for layer in layers)
    found = trainable_parameters(adapted)
    trained = {**found, "adapters": adapters, "total": found["total"] - found["adapters"] + adapters}
    return MethodCount(trained, base, 4 * trained["total"])


def _check_task(task: str) -> None:
    if task not in get_args(Task):
        msg = f"unknown task {task!r}; the tasks are {', '.join(get_args(Task))}"
        raise CountError(msg)


def _parameters(model: nn.Module) -> int:
    return sum(own.numel() for own in model.parameters())


def _file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file: eight bytes, a JSON header padded to eight, the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):  # the order in which safetensors writes them
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = f"F{8 * tensor.element_size()}"
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    written = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-written // 8) * 8 + end


def _one_line(error: BaseException) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
