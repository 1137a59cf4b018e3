"""The methods of the study: from a name to a model whose trainable parameters are that method's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, TtLoraConfig
from ttlib_peft.finetune.methods import head_modules
from ttlib_peft.presets import PaperMethod, paper
from ttlib_peft.targets import ADP_TARGET_MODULES, is_called
from ttlib_peft.tuner import is_norm

Head = Literal["classifier", "dense", "tensor-train", "frozen"]
HEADS: tuple[Head, ...] = ("classifier", "dense", "tensor-train", "frozen")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a builder gets beside the model; `head` None: a language model's, or what a preset has."""

    seed: int
    norms: bool
    head: Head | None
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    Attributes:
        title: its name in tables.
        build: freezes a model but for what the method trains.
        options: its settings in the study.
        takes: the names of all settings that it has.
        norms: whether the normalisation layers are trained where nobody says.
        note: where the settings are not those of the paper, or need a reason.
    """

    title: str
    build: Callable[[PreTrainedModel, Setup], nn.Module]
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()
    norms: bool = False
    note: str = ""


class MethodError(ValueError):
    """A method that does not go with its options or its model: the message holds the fact, the value, the remedy."""


def make_trainable(
    model: PreTrainedModel,
    method: str,
    *,
    seed: int,
    train_norms: bool | None = None,
    head: Head | None = None,
    **options: Any,
) -> nn.Module:
    """Freeze all of `model` but what the method trains; what the method adds is drawn from `seed`.

    `train_norms`: the normalisation layers as well; None: as the method has it in the paper.  `head` of a classifier:
    "dense", the default: the last layer and the one before it, which is the pooler or the first layer of the head;
    "classifier": the last layer; "tensor-train": that, and the other as a tensor train; "frozen": neither.  A language
    model's head is trained by full fine-tuning alone.  `options` are those of the method's configuration; `preset`, of
    a LoRETTA method, is the paper's configuration for the model of that name, head included, with the options of
    `ttlib_peft.presets.paper`.  Raises MethodError for what does not go together.
    """
    if method not in METHODS:
        msg = f"no method is called {method!r}; there are {', '.join(METHODS)}"
        raise MethodError(msg)
    spec = METHODS[method]
    from_preset = "preset" in options and "preset" in spec.takes
    takes = _PRESET_TAKES if from_preset else spec.takes
    if unknown := sorted(set(options) - takes):
        msg = f"{method} has no option {', '.join(map(repr, unknown))}; it has {', '.join(sorted(takes)) or 'none'}"
        raise MethodError(msg)
    settings = options if from_preset else {**spec.options, **options}
    setup = Setup(
        seed=seed,
        norms=spec.norms if train_norms is None else train_norms,
        head=_checked_head(model, head, default=None if from_preset else "dense"),
        options={name: _thawed(value) for name, value in settings.items()},
    )
    set_seed(seed)
    trained = spec.build(model, setup)
    if not any(parameter.requires_grad for parameter in trained.parameters()):
        msg = f"{method} trains nothing of {type(model).__name__}; leave it out, or give it train_norms=True"
        raise MethodError(msg)
    return trained


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Trainable parameters by what they belong to: adapters, norms, head, body, total.

    As `ttlib_peft.trainable_parameters`, with the dense adapters of this study among the adapters, and the pooler, also
    as a tensor train, in the head.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    inside = {parameter: name for name, parameter in base.named_parameters()}
    norms = _prefixes(name for name, module in base.named_modules() if is_norm(module))
    dense = _prefixes(name for name, module in base.named_modules() if isinstance(module, DenseAdapter))
    head = _prefixes(head_modules(base))
    counts = dict.fromkeys(("adapters", "norms", "head", "body"), 0)
    for parameter in model.parameters():
        name = inside.get(parameter, "")  # what is not inside is a prompt
        if not parameter.requires_grad:
            continue
        if name.startswith(norms):
            kind = "norms"
        elif name.startswith(head) or ".pooler." in name:
            kind = "head"
        else:
            kind = "adapters" if isinstance(model, PeftModel) or name.startswith(dense) else "body"
        counts[kind] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


class DenseAdapter(nn.Module):
    """h + up(relu(down(h))), with up = 0 at the start, as LoRA has it: Houlsby et al. 2019, section 2.1."""

    def __init__(self, width: int, bottleneck: int, *, bias: bool) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, bias=bias)
        self.up = nn.Linear(bottleneck, width, bias=bias)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """Add the correction."""
        return h + self.up(self.down(h).relu())


def _full(model: PreTrainedModel, setup: Setup) -> nn.Module:
    if setup.norms or setup.head not in (None, "dense"):
        asked = f"train_norms={setup.norms} and head={setup.head!r}"
        msg = f"full fine-tuning trains norms and head anyway, got {asked}; leave them out"
        raise MethodError(msg)
    return model.requires_grad_(True)


def _bitfit(model: PreTrainedModel, setup: Setup) -> nn.Module:
    """Every bias, those of the norms included; the last layer is as the head is: Zaken et al. 2022."""
    trained = _head_alone(model, setup)
    head = _prefixes(_head_layers(model)[-1:])
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and not name.startswith(head):
            parameter.requires_grad_(True)
    return trained


def _head_alone(model: PreTrainedModel, setup: Setup) -> nn.Module:
    model.requires_grad_(False)
    _train_in_place(model, _shared(model, setup))
    return model


def _dense_adapters(model: PreTrainedModel, setup: Setup) -> nn.Module:
    """After the linear layers that LoRETTA_adp comes after, unless `placement` names others and their sides."""
    trained = _head_alone(model, setup)
    after = dict.fromkeys(ADP_TARGET_MODULES.get(model.config.model_type, ()), "output")
    sides = setup.options.get("placement", after)
    if wrong := {target: side for target, side in sides.items() if side not in _HOOKS}:
        msg = f"placement has {wrong}; give each layer one of {', '.join(_HOOKS)}"
        raise MethodError(msg)
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {name: side for target, side in sides.items() for name in linears if is_called(name, target)}
    if not chosen:
        msg = f"{type(model).__name__} has no linear layer called {', '.join(sides)}; name others in placement"
        raise MethodError(msg)
    for name, side in chosen.items():
        linear = linears[name]
        width = linear.in_features if side == "input" else linear.out_features
        with linear.weight.device:
            linear.adapter = DenseAdapter(width, setup.options["bottleneck"], bias=setup.options["bias"])
        _HOOKS[side](linear)
    return trained


def _adapt_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (module.adapter(arguments[0]),)


def _adapt_output(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return module.adapter(output)


_HOOKS: Mapping[str, Callable[[nn.Module], object]] = {
    "input": lambda linear: linear.register_forward_pre_hook(_adapt_input),
    "output": lambda linear: linear.register_forward_hook(_adapt_output),
}


def _with_layers(make: Callable[..., PeftConfig], model: PreTrainedModel, setup: Setup) -> nn.Module:
    """A method of PEFT that changes layers."""
    shared = _shared(model, setup)
    trained = get_peft_model(model, make(**_task(model, setup), **setup.options))
    _train_in_place(trained, shared)
    return trained


def _with_tokens(make: Callable[..., PeftConfig], model: PreTrainedModel, setup: Setup) -> nn.Module:
    """A method of PEFT that adds virtual tokens.

    PEFT has to know the task, and then trains a copy of all that is called a classifier: RoBERTa's is two layers.
    """
    shared = _shared(model, setup)
    task = "CAUSAL_LM" if _is_language(model) else "SEQ_CLS"
    trained = get_peft_model(model, make(task_type=task, **setup.options))
    for name, parameter in trained.named_parameters():
        if _COPY in name:
            parameter.requires_grad_(False)
    _train_in_place(trained, shared)
    return trained


def _with_trains(make: Callable[..., PeftConfig], model: PreTrainedModel, setup: Setup) -> nn.Module:
    """A method of this library, whose configurations have norms and tensor-train heads themselves."""
    tensorised = {"tensorize_modules": [_before_last(model)]} if setup.head == "tensor-train" else {}
    shared = {"train_norms": setup.norms, "seed": setup.seed, **_task(model, setup), **tensorised}
    return get_peft_model(model, make(**shared, **setup.options))


def _loretta(method: PaperMethod, make: Callable[..., PeftConfig], model: PreTrainedModel, setup: Setup) -> nn.Module:
    """A LoRETTA method as the library has it, or with `preset` as the paper has it for that model."""
    options = dict(setup.options)
    preset = options.pop("preset", None)
    if preset is None:
        return _with_trains(make, model, setup)
    shared: dict[str, Any] = {"train_norms": setup.norms, "seed": setup.seed, "head": setup.head}
    return get_peft_model(model, paper(preset, method, **shared, **options))


def _is_language(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings() is not None


def _checked_head(model: PreTrainedModel, head: Head | None, default: Head | None) -> Head | None:
    if head is None:
        return None if _is_language(model) else default
    if head not in HEADS:
        msg = f"head is {head!r}; give one of {', '.join(HEADS)}"
        raise MethodError(msg)
    if _is_language(model):
        msg = f"head {head!r} is for classifiers, {type(model).__name__} is a language model; leave it out"
        raise MethodError(msg)
    return head


def _head_layers(model: PreTrainedModel) -> list[str]:
    """The linear layers after the encoder, the last one at the end: pooler and classifier, or a classifier of two."""
    head = _prefixes(head_modules(model))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (f"{name}.".startswith(head) or is_called(name, "pooler.dense"))
    ]


def _before_last(model: PreTrainedModel) -> str:
    layers = _head_layers(model)
    if len(layers) < 2:
        msg = f"{type(model).__name__} has one layer after the encoder; give head 'classifier' or 'frozen'"
        raise MethodError(msg)
    return layers[-2]


def _trained_head(model: PreTrainedModel, head: Head | None) -> list[str]:
    """The layers of the head that are trained as they are."""
    if head is None or head == "frozen":
        return []
    last = _head_layers(model)[-1]
    return [_before_last(model), last] if head == "dense" else [last]


def _task(model: PreTrainedModel, setup: Setup) -> dict[str, Any]:
    """Told the task, PEFT trains whatever is called a classifier; a head is told by its layers instead."""
    if _is_language(model):
        return {"task_type": "CAUSAL_LM"}
    return {"modules_to_save": _trained_head(model, setup.head) or None}


def _shared(model: PreTrainedModel, setup: Setup) -> list[str]:
    """What methods train alike, by name: layers of the head, normalisation layers."""
    if setup.head == "tensor-train":
        msg = "only tensor-train methods have a head of tensor trains; give head 'classifier', 'dense' or 'frozen'"
        raise MethodError(msg)
    norms = [name for name, module in model.named_modules() if setup.norms and is_norm(module)]
    return _trained_head(model, setup.head) + norms


_COPY = ".modules_to_save.default"


def _train_in_place(model: nn.Module, places: list[str]) -> None:
    """Train modules by the names that they had before PEFT: those of a copy, where it trains one, else their own."""
    for name, parameter in model.named_parameters():
        original = f".{name.replace(_COPY, '')}"
        if ".original_module." not in name and any(f".{place}." in original for place in places):
            parameter.requires_grad_(True)


def _prefixes(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def _thawed(value: Any) -> Any:
    """Lists and dicts for configurations that want them, from the tuples of a cell."""
    if not isinstance(value, tuple):
        return value
    if value and all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in value):
        return {name: _thawed(item) for name, item in value}
    return [_thawed(item) for item in value]


# Options that every method has under the same names.
_SHARED = {"task_type", "modules_to_save", "tensorize_modules", "train_norms", "seed"}
_PRESET_TAKES = frozenset({"preset", "rank", "shape", "init_weights", "dropout"})


def _peft(
    title: str, build: Callable[..., nn.Module], make: type[PeftConfig], *, note: str = "", norms: bool = False,
    **options: Any,
) -> Method:  # fmt: skip
    takes = frozenset(own.name for own in fields(make) if own.init) - _SHARED
    return Method(title, partial(build, make), options, takes, norms, note)


def _with_presets(method: PaperMethod, make: type[PeftConfig], **options: Any) -> Method:
    own = _peft(f"LoRETTA {method}", partial(_loretta, method), make, norms=True, **options)
    return replace(own, takes=own.takes | {"preset"})


def _adapters(bottleneck: int) -> Method:
    return Method(
        f"adapters {bottleneck}",
        _dense_adapters,
        {"bottleneck": bottleneck, "bias": True},
        takes=frozenset({"bottleneck", "bias", "placement"}),
    )


METHODS: Mapping[str, Method] = {
    "full": Method("full fine-tuning", _full),
    "lora-8": _peft("LoRA r=8", _with_layers, LoraConfig, r=8, lora_alpha=16),
    "lora-4": _peft("LoRA r=4", _with_layers, LoraConfig, r=4, lora_alpha=16),
    "adapters-64": _adapters(64),
    "adapters-8": _adapters(8),
    "bitfit": Method("BitFit", _bitfit),
    "ia3": _peft("IA3", _with_layers, IA3Config),
    "prefix": _peft("prefix tuning", _with_tokens, PrefixTuningConfig, num_virtual_tokens=8),
    "prompt": _peft(
        "prompt tuning",
        _with_tokens,
        PromptTuningConfig,
        num_virtual_tokens=10,
        prompt_tuning_init="SAMPLE_VOCAB",
        note="10 virtual tokens that start as words of the vocabulary (Lester et al. 2021), not as noise",
    ),
    "p-tuning": _peft(
        "P-tuning",
        _with_tokens,
        PromptEncoderConfig,
        num_virtual_tokens=20,
        encoder_hidden_size=128,
        note="20 virtual tokens, which give the 0.23M parameters that the paper prints; its scripts have 100, "
        "more than most rows have themselves",
    ),
    "loretta-rep": _with_presets("rep", LorettaRepConfig, r=8, alpha=16, tensor_rank=5),
    "loretta-adp": _with_presets("adp", LorettaAdpConfig, bottleneck=64, tensor_rank=5),
    "tt-lora": _peft("TT-LoRA", _with_trains, TtLoraConfig, tensor_rank=5),
    "meta-tt": _peft("MetaTT", _with_trains, MetaTTConfig, tensor_rank=8),
    "head": Method("head only", _head_alone),
    "norms-head": Method("norms + head only", _head_alone, norms=True),
}
