"""From LoRA to LoRETTA_rep: the trained factors as tensor trains, with the true error of every update."""

from __future__ import annotations

import copy
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

import ttlib
from ttlib.errors import NonFiniteError, RankError, ShapeError, TTFileError
from ttlib_peft.adapter_folder import CARRIED_OVER, ROOT, read_weights, write_adapter
from ttlib_peft.methods.loretta_rep import LorettaRepConfig
from ttlib_peft.tt_linear import choose_shape

# Settings under which A B is not the whole update, or not an update of one weight
_OTHER_UPDATES = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config",
    "arrow_config", "alora_invocation_tokens", "layer_replication", "target_parameters", "trainable_token_indices",
    "megatron_config",
)  # fmt: skip
# Starts that change the frozen weight too, which a LoRETTA adapter would not
_STARTS_THAT_MOVE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_SUFFIXES = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
)
_HALVINGS = 20


@dataclass(frozen=True)
class CompressedModule:
    """One module: ||AB - A'B'|| / ||AB|| in the Frobenius norm, and the parameters of A and B before and after."""

    name: str
    relative_error: float
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class CompressedLora:
    """What `compress_lora` returns: an adapter, and what became of each module."""

    config: LorettaRepConfig
    weights: dict[str, Tensor]
    modules: tuple[CompressedModule, ...]

    @property
    def parameters_before(self) -> int:
        """Parameters of the LoRA factors."""
        return sum(module.parameters_before for module in self.modules)

    @property
    def parameters_after(self) -> int:
        """Parameters of the tensor trains."""
        return sum(module.parameters_after for module in self.modules)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the adapter as a folder that PeftModel.from_pretrained loads, and return it."""
        return write_adapter(folder, self.config, self.weights)


class _Update(NamedTuple):
    """P (in, r) and Q (r, out), balanced, with P Q the update of one module."""

    p: Tensor
    q: Tensor
    norm: float
    dtype: torch.dtype
    suffixes: tuple[str, str]

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The modes of both tensor trains: they depend on the sizes alone."""
        (rows, r), cols = self.p.shape, self.q.shape[1]
        return choose_shape(rows, r, r, None)[0], choose_shape(r, cols, r, None)[0]


class _Trains(NamedTuple):
    a: ttlib.TensorTrain
    b: ttlib.TensorTrain
    relative_error: float

    @property
    def parameters(self) -> int:
        return sum(core.numel() for train in (self.a, self.b) for core in train.cores)


@torch.no_grad()
def compress_lora(
    folder: str | os.PathLike[str],
    *,
    tensor_rank: int | None = None,
    eps: float | None = None,
    budget: int | None = None,
) -> CompressedLora:
    """Return the LoRA adapter in *folder* as a LoRETTA_rep adapter, by TT-SVD of its trained factors.

    >>> import tempfile, torch, peft
    >>> from ttlib_peft.compress import compress_lora
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 48))
    >>> lora = peft.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     peft.get_peft_model(net, lora).save_pretrained(folder)
    ...     small = compress_lora(folder, tensor_rank=2)
    >>> small.parameters_before, small.parameters_after < 200
    (448, True)

    Args:
        folder: what save_pretrained of a LoRA model wrote.
        tensor_rank: largest rank of a bond.
        eps: bound on the relative error, in the Frobenius norm, of the update of every module.
        budget: bound on the parameters of all tensor trains together; all modules get the same tolerance.

    Exactly one of the three.  The scaling is folded in and the factors are balanced before they are decomposed
    (Oseledets 2011, algorithm 1); errors are those of whole updates, measured without forming one.  Trained LoRA
    factors have no tensor-train structure in general: when the result is larger than the LoRA a warning says so.

    Raises TypeError for another method's adapter; NotImplementedError for LoRA variants whose update is not s A B;
    TTFileError, NonFiniteError or ShapeError for weights that are none; RankError for a bound that cannot be met.
    """
    _check_one_bound(tensor_rank, eps, budget)
    config = PeftConfig.from_pretrained(str(folder))
    _check_plain_lora(config, folder)
    weights = read_weights(Path(folder))
    updates = _updates(config, weights)
    if tensor_rank is not None:
        trains = {name: _decomposed(update, ranks=tensor_rank) for name, update in updates.items()}
    elif eps is not None:
        trains = {name: _within(update, eps) for name, update in updates.items()}
    else:
        assert budget is not None  # noqa: S101  # for the type checker
        trains = _affordable(updates, budget)
    return _assembled(config, weights, updates, trains)


def _check_one_bound(tensor_rank: int | None, eps: float | None, budget: int | None) -> None:
    given = {"tensor_rank": tensor_rank, "eps": eps, "budget": budget}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        msg = f"give exactly one of tensor_rank, eps and budget, got {chosen or 'none'}"
        raise ValueError(msg)
    if eps is not None and not 0 < eps < 1:
        msg = f"eps must be a relative error > 0 and < 1, got {eps!r}"
        raise RankError(msg)


def _check_plain_lora(config: PeftConfig, folder: object) -> None:
    if not isinstance(config, LoraConfig):
        msg = f"{folder} holds an adapter of {type(config).__name__}; give the folder of a LoRA adapter"
        raise TypeError(msg)
    start = str(config.init_lora_weights).lower()
    variants = [name for name in _OTHER_UPDATES if getattr(config, name, None)]
    if start.startswith(_STARTS_THAT_MOVE_THE_BASE):
        variants.append(f"init_lora_weights={start!r}")
    if variants:
        msg = (
            f"{folder} uses {', '.join(variants)}: its update is not alpha/r A B on the unchanged weight; "
            "convert it to plain LoRA first (peft's save_pretrained or convert_to_lora does)"
        )
        raise NotImplementedError(msg)


def _updates(config: Any, weights: dict[str, Tensor]) -> dict[str, _Update]:
    updates = {}
    for key, a in weights.items():
        for first, second in _SUFFIXES:
            if key.endswith(first):
                name = key.removesuffix(first)
                b = weights.get(name + second)
                if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                    found = None if b is None else tuple(b.shape)
                    msg = f"{name} has A {tuple(a.shape)} and B {found}; A must be (r, in) and B (out, r)"
                    raise ShapeError(msg)
                updates[name] = _balanced(name, a, b, _scaling(config, name, a.shape[0]), (first, second))
    if not updates:
        msg = "the adapter's weights hold no lora_A and lora_B; give the folder of a LoRA adapter"
        raise TTFileError(msg)
    return updates


def _scaling(config: Any, name: str, r: int) -> float:
    pattern = config.alpha_pattern or {}
    alpha = pattern.get(get_pattern_key(list(pattern), name.removeprefix(ROOT)), config.lora_alpha)
    return float(alpha / (math.sqrt(r) if config.use_rslora else r))


def _balanced(name: str, a: Tensor, b: Tensor, scale: float, suffixes: tuple[str, str]) -> _Update:
    """Spread the singular values of the update evenly, so that errors of both factors weigh the same in it."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        msg = f"the LoRA factors of {name} hold NaN or infinity; compress a checkpoint from before that"
        raise NonFiniteError(msg)
    left, above = torch.linalg.qr(a.T.double())
    right, below = torch.linalg.qr(b.double())
    u, s, vt = torch.linalg.svd(scale * above @ below.T)
    k, r = min(above.shape[0], below.shape[0]), a.shape[0]
    root = s[:k].sqrt()
    p, q = a.new_zeros(a.shape[1], r, dtype=torch.float64), a.new_zeros(r, b.shape[0], dtype=torch.float64)
    p[:, :k] = (left @ u[:, :k]) * root
    q[:k] = root[:, None] * (vt[:k] @ right.T)
    return _Update(p, q, float(s.norm()), a.dtype, suffixes)


def _decomposed(update: _Update, **truncation: Any) -> _Trains:
    a_shape, b_shape = update.shapes
    a = ttlib.decompose(update.p, shape=a_shape, **truncation)
    b = ttlib.decompose(update.q, shape=b_shape, **truncation)
    # as they will be stored: rounding to the adapter's dtype is part of the error
    p, q = (
        _dense([core.to(update.dtype).double() for core in train.cores]).reshape(like.shape)
        for train, like in ((a, update.p), (b, update.q))
    )
    error = _norm_of_product(torch.cat([update.p, p], dim=1), torch.cat([update.q, -q]))
    return _Trains(a, b, error / update.norm if update.norm else error)


def _dense(cores: list[Tensor]) -> Tensor:
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.tensordot(whole, core, dims=1)
    return whole


def _norm_of_product(p: Tensor, q: Tensor) -> float:
    """The Frobenius norm of P Q through the triangles of both; P Q is never formed."""
    return float((torch.linalg.qr(p, mode="r").R @ torch.linalg.qr(q.T, mode="r").R.T).norm())


def _within(update: _Update, eps: float) -> _Trains:
    """Decompose to an error of the update below eps: the tolerance of the factors is lowered until it is."""
    tolerance = eps
    for _ in range(_HALVINGS):
        trains = _decomposed(update, eps=tolerance)
        if trains.relative_error <= eps:
            return trains
        tolerance *= min(0.9 * eps / trains.relative_error, 0.5 if tolerance < eps / 8 else 0.9)
    msg = f"eps={eps:g} is below what {update.dtype} cores can hold; the error is {trains.relative_error:.1e}"
    raise RankError(msg)


def _affordable(updates: dict[str, _Update], budget: int) -> dict[str, _Trains]:
    """Bisect the logarithm of one tolerance for all modules to the least that the budget allows."""
    least = {name: _decomposed(update, ranks=1) for name, update in updates.items()}
    floor = sum(trains.parameters for trains in least.values())
    if budget < floor:
        msg = f"budget={budget} is below {floor}, the parameters of all trains at rank 1; give at least that"
        raise RankError(msg)
    best, low, high = least, math.log(1e-6), 0.0
    for _ in range(_HALVINGS // 2):
        middle = (low + high) / 2
        tried = {name: _decomposed(update, eps=math.exp(middle)) for name, update in updates.items()}
        if sum(trains.parameters for trains in tried.values()) <= budget:
            best, high = tried, middle
        else:
            low = middle
    return best


def _assembled(
    lora: Any, weights: dict[str, Tensor], updates: dict[str, _Update], trains: dict[str, _Trains]
) -> CompressedLora:
    factors = {name + suffix for name, update in updates.items() for suffix in update.suffixes}
    result = {key: tensor for key, tensor in weights.items() if key not in factors}
    for name, found in trains.items():
        for letter, train in (("A", found.a), ("B", found.b)):
            flat = torch.cat([core.reshape(-1) for core in train.cores])
            result[f"{name}.loretta_rep_{letter}.flat"] = flat.to(updates[name].dtype)
    modules = tuple(
        CompressedModule(name.removeprefix(ROOT), found.relative_error, _numel(updates[name]), found.parameters)
        for name, found in trains.items()
    )
    compressed = CompressedLora(_rep_config(lora, updates, trains), result, modules)
    if compressed.parameters_after >= compressed.parameters_before:
        msg = (
            f"the tensor trains need {compressed.parameters_after} parameters, the LoRA has "
            f"{compressed.parameters_before}: nothing is won; allow a larger error or keep the LoRA"
        )
        warnings.warn(msg, stacklevel=4)  # past the decorator
    return compressed


def _numel(update: _Update) -> int:
    return update.p.numel() + update.q.numel()


def _rep_config(lora: Any, updates: dict[str, _Update], trains: dict[str, _Trains]) -> LorettaRepConfig:
    # longest name first: PEFT takes the first pattern that is an end of the module's name
    names = sorted(updates, key=len, reverse=True)
    rank = {name.removeprefix(ROOT): updates[name].p.shape[1] for name in names}
    r = max(rank.values())
    shapes = {
        f"{rows}x{cols}": list(modes)
        for update in updates.values()
        for (rows, cols), modes in zip((update.p.shape, update.q.shape), update.shapes, strict=True)
    }
    ranks = {
        name.removeprefix(ROOT): {"A": list(trains[name].a.ranks[1:-1]), "B": list(trains[name].b.ranks[1:-1])}
        for name in names
    }
    others = {name: own for name, own in rank.items() if own != r}
    return LorettaRepConfig(
        r=r,
        alpha=r,
        rank_pattern=others,
        alpha_pattern={name: float(own) for name, own in others.items()},
        tensor_shape=shapes,
        tensor_rank_pattern=ranks,  # type: ignore[arg-type]  # invariance of dict
        init_weights="zero",
        bias="loretta_only" if lora.bias == "lora_only" else lora.bias,
        dropout=lora.lora_dropout,
        inference_mode=True,
        **{name: copy.copy(getattr(lora, name)) for name in (*CARRIED_OVER, "modules_to_save")},
    )
