"""Checkpoints of the reference library, the `loretta` 0.1.0 wheel, as adapters of this one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import ttlib
from ttlib.errors import NonFiniteError, ShapeError, TTFileError
from ttlib.ranks import clip_ranks
from ttlib.shapes import find_split
from ttlib_peft.adapter_folder import CONFIG, ROOT, read_weights, write_adapter
from ttlib_peft.config import size
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig
from ttlib_peft.methods.loretta_rep import LorettaRepConfig
from ttlib_peft.tt_linear import choose_shape

_FACTOR = re.compile(r"(.+)\.layer\.tensor\.factors\.(\d+)")
# Their names of the matrices, and ours.
_MATRICES = {
    "lora_A": "loretta_rep_A", "lora_B": "loretta_rep_B",
    "adapter_down": "loretta_adp_down", "adapter_up": "loretta_adp_up",
}  # fmt: skip
_PREFIX = {"LORA": "loretta_rep_", "BOTTLENECK": "loretta_adp_"}
# The modules that the reference adapts in front, in every architecture it has a table for.
_ADAPTED_IN_FRONT = ("gate_proj", "up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h")
_ACTIVATIONS = {"swish": "silu", "linear": "identity"}


@dataclass(frozen=True)
class ImportedAdapter:
    """What `import_reference` returns.

    `lost` names what the reference library trained and did not save; `redecomposed` the matrices whose modes do not
    split between rows and columns, or differ from those of other matrices of the size: the same matrix, other cores.
    """

    config: LorettaRepConfig | LorettaAdpConfig
    weights: dict[str, Tensor]
    lost: tuple[str, ...]
    redecomposed: tuple[str, ...]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the adapter as a folder that PeftModel.from_pretrained loads, and return it."""
        return write_adapter(folder, self.config, self.weights)


class _Matrix(NamedTuple):
    """One (rows, cols) matrix of the file: its cores, and a bias where it has one."""

    cores: tuple[Tensor, ...]
    bias: Tensor | None
    rows: int
    cols: int

    @property
    def size(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def modes(self) -> tuple[int, ...]:
        return tuple(core.shape[1] for core in self.cores)

    @property
    def inner_ranks(self) -> list[int]:
        return [core.shape[2] for core in self.cores[:-1]]

    def over(self, modes: tuple[int, ...]) -> _Matrix:
        """The same matrix over other modes, to the rounding of its dtype."""
        dense, dtype = ttlib.TensorTrain(tuple(core.double() for core in self.cores)).to_tensor(), self.cores[0].dtype
        train = ttlib.decompose(dense, shape=modes, eps=torch.finfo(dtype).eps)
        return self._replace(cores=tuple(core.to(dtype) for core in train.cores))


@torch.no_grad()
def import_reference(folder: str | os.PathLike[str]) -> ImportedAdapter:
    """Return a checkpoint that `loretta` 0.1.0 wrote as a LoRETTA_rep or LoRETTA_adp adapter with the same function.

    >>> import json, pathlib, tempfile, torch
    >>> from ttlib_peft.reference_import import import_reference
    >>> cores = {"lora_A": [(1, 6, 2), (2, 8, 2), (2, 4, 1)], "lora_B": [(1, 4, 2), (2, 8, 2), (2, 6, 1)]}
    >>> weights = {
    ...     f"base_model.model.q.{matrix}.layer.tensor.factors.{i}": torch.randn(shape)
    ...     for matrix, shapes in cores.items() for i, shape in enumerate(shapes)
    ... }
    >>> config = {"peft_type": "LORA", "r": 4, "tensor_rank": 2, "lora_alpha": 16, "target_modules": ["q"]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(weights, pathlib.Path(folder, "adapter_model.bin"))
    ...     written = pathlib.Path(folder, "adapter_config.json").write_text(json.dumps(config))
    ...     adapter = import_reference(folder)
    >>> adapter.config.tensor_shape, adapter.weights["base_model.model.q.loretta_rep_A.flat"].shape
    ({'48x4': [6, 8, 4], '4x48': [4, 8, 6]}, torch.Size([52]))
    >>> len(adapter.lost)
    1

    Args:
        folder: holds adapter_config.json and adapter_model.bin.  The pickle is read as tensors only.

    What the file holds arrives complete: cores, biases, heads, tensorised classifiers.  What was trained but never
    written cannot come back; `lost` names it.  The update is read as the reference calculates it, the cores contracted
    to a matrix in row-major order (Yang et al. 2024, sections 3.2 and 3.3).

    Raises TTFileError for files that are none of these; NotImplementedError for settings whose function differs
    (`enable_lora`, trained biases, parallel adapters, learned scalings); ShapeError, RankError, NonFiniteError for
    cores that fit no matrix.
    """
    settings = _read_settings(Path(folder))
    weights = read_weights(Path(folder))
    trains = {name: _checked(name, cores) for name, cores in _collected(weights).items()}
    matrices = {name: _matrix(name, cores, weights, settings) for name, cores in trains.items()}
    if not any(name.rpartition(".")[2] in _MATRICES for name in matrices):
        msg = f"{folder} holds no tensor trains (…layer.tensor.factors.0): give a folder that loretta 0.1.0 wrote"
        raise TTFileError(msg)
    modes = _modes_by_size(matrices, settings["tensor_rank"])
    settled = {
        name: matrix if matrix.modes == modes[matrix.size] else matrix.over(modes[matrix.size])
        for name, matrix in matrices.items()
    }
    redecomposed = tuple(name.removeprefix(ROOT) for name in settled if settled[name] is not matrices[name])
    config = _config(settings, settled, modes)
    return ImportedAdapter(config, _renamed(weights, settled, settings), _lost(weights, settings), redecomposed)


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{folder / CONFIG} cannot be read: {error}"
        raise TTFileError(msg) from error
    kind = settings.get("peft_type") if isinstance(settings, dict) else None
    needed = ("tensor_rank", "r", "lora_alpha") if kind == "LORA" else ("tensor_rank", "bottleneck_size")
    missing = [name for name in needed if not isinstance(settings, dict) or name not in settings]
    if kind not in _PREFIX or missing:
        why = f"has no {', '.join(missing)}" if kind in _PREFIX else f"has peft_type {kind!r}"
        msg = f"{folder / CONFIG} {why}: give a LoRETTA adapter of loretta 0.1.0 (peft_type LORA or BOTTLENECK)"
        raise TTFileError(msg)
    for name in needed[:2]:
        size(settings[name], name)
    _check_convertible(settings)
    return settings


def _check_convertible(settings: Mapping[str, Any]) -> None:
    refused = {
        "enable_lora": "a MergedLinear adapts a part of one fused weight",
        "use_parallel_adapter": "a parallel adapter stands beside its layer",
        "use_adapterp": "its placement is not LoRETTA's",
    }
    reasons = [f"{name}={settings[name]!r} ({why})" for name, why in refused.items() if settings.get(name)]
    if settings.get("bias", "none") != "none":
        reasons.append(f"bias={settings['bias']!r} (which biases of the base were trained is not in the file)")
    if isinstance(settings.get("scaling"), str):
        reasons.append(f"scaling={settings['scaling']!r} (a factor for each layer)")
    if reasons:
        msg = f"the checkpoint uses {', '.join(reasons)}, which no adapter here calculates: train it anew"
        raise NotImplementedError(msg)


def _collected(weights: Mapping[str, Tensor]) -> dict[str, dict[int, Tensor]]:
    trains: dict[str, dict[int, Tensor]] = {}
    for key, tensor in weights.items():
        if found := _FACTOR.fullmatch(key):
            trains.setdefault(found[1], {})[int(found[2])] = tensor
    return trains


def _checked(name: str, cores: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
    if sorted(cores) != [*range(len(cores))]:
        msg = f"{name} has the factors {sorted(cores)}; all from 0 to {max(cores)} must be in the file"
        raise TTFileError(msg)
    chain = tuple(cores[place] for place in range(len(cores)))
    shapes = [tuple(core.shape) for core in chain]
    fit = all(core.ndim == 3 and core.is_floating_point() and core.numel() for core in chain)
    if not fit or [shapes[0][0], shapes[-1][2]] != [1, 1] or any(a[2] != b[0] for a, b in pairwise(shapes)):
        msg = f"{name} has factors of shapes {shapes}; they must be (1, n, r), (r, n', r'), …, (r'', n'', 1)"
        raise ShapeError(msg)
    if not all(torch.isfinite(core).all() for core in chain):
        msg = f"the factors of {name} hold NaN or infinity; import a checkpoint from before that"
        raise NonFiniteError(msg)
    return chain


def _matrix(
    name: str, cores: tuple[Tensor, ...], weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> _Matrix:
    bias = weights.get(f"{name}.layer.bias")
    entries = 1
    for core in cores:
        entries *= core.shape[1]
    # a bias has as many entries as there are columns; the matrices of a rep have none, but an r
    narrow = bias.numel() if bias is not None else int(settings.get("r", 1))
    if bias is None and not name.endswith((".lora_A", ".lora_B")):
        msg = f"{name} has no bias in the file, {name}.layer.bias; it must be there"
        raise TTFileError(msg)
    if entries % narrow:
        msg = f"{name} has {entries} entries, which make no matrix with {narrow} rows or columns: the file is damaged"
        raise ShapeError(msg)
    rows, cols = (narrow, entries // narrow) if name.endswith(".lora_B") else (entries // narrow, narrow)
    return _Matrix(cores, bias, rows, cols)


def _modes_by_size(matrices: Mapping[str, _Matrix], tensor_rank: int) -> dict[str, tuple[int, ...]]:
    """One list of modes for all matrices of a size: the first that splits between rows and columns, or a new one."""
    modes: dict[str, tuple[int, ...]] = {}
    for matrix in matrices.values():
        if _splits(matrix):
            modes.setdefault(matrix.size, matrix.modes)
    for matrix in matrices.values():
        if matrix.size not in modes:
            refined = _refined(matrix.modes, matrix.rows)
            modes[matrix.size] = refined or choose_shape(matrix.rows, matrix.cols, tensor_rank, None)[0]
    return modes


def _refined(modes: tuple[int, ...], rows: int) -> tuple[int, ...] | None:
    """Split the mode that reaches from the rows into the columns in two, which leaves all other bonds as they are."""
    before = 1
    for place, mode in enumerate(modes):
        if before * mode > rows:
            first, rest = divmod(rows, before)
            return None if rest or mode % first else (*modes[:place], first, mode // first, *modes[place + 1 :])
        before *= mode
    return None


def _splits(matrix: _Matrix) -> bool:
    try:
        return find_split(matrix.modes, rows=matrix.rows, cols=matrix.cols) < len(matrix.modes)
    except ShapeError:
        return False


def _config(
    settings: Mapping[str, Any], matrices: Mapping[str, _Matrix], modes: Mapping[str, tuple[int, ...]]
) -> LorettaRepConfig | LorettaAdpConfig:
    targets = {name.rpartition(".")[0] for name in matrices if name.rpartition(".")[2] in _MATRICES}
    tensorized = sorted(name for name in matrices if name.rpartition(".")[2] not in _MATRICES)
    shared: dict[str, Any] = {
        "tensor_rank": settings["tensor_rank"],
        "tensor_shape": {matrix: list(own) for matrix, own in modes.items()},
        "tensor_rank_pattern": _other_ranks(matrices, settings["tensor_rank"]),
        "init_weights": "gaussian",  # no start is subtracted; a tensorised module stands in the place of the dense
        "dropout": float(settings.get("lora_dropout", settings.get("adapter_dropout")) or 0.0),
        "target_modules": sorted(target.removeprefix(ROOT) for target in targets),
        "tensorize_modules": [name.removeprefix(ROOT) for name in tensorized] or None,
        "modules_to_save": settings.get("modules_to_save"),
        "task_type": settings.get("task_type"),
        "base_model_name_or_path": settings.get("base_model_name_or_path") or None,
        "inference_mode": True,
    }
    if settings["peft_type"] == "LORA":
        return LorettaRepConfig(r=settings["r"], alpha=settings["lora_alpha"], **shared)
    endings = {target.rpartition(".")[2] for target in targets}
    placement: Any = {name: "input" for name in _ADAPTED_IN_FRONT if name in endings}
    activation = settings.get("non_linearity", "tanh")
    return LorettaAdpConfig(
        bottleneck=settings["bottleneck_size"],
        non_linearity=_ACTIVATIONS.get(activation, activation),
        scaling=float(settings.get("scaling", 1.0)),
        placement=placement or "output",
        **shared,
    )


def _other_ranks(matrices: Mapping[str, _Matrix], tensor_rank: int) -> dict[str, dict[str, list[int]]]:
    """Ranks by module and matrix, where `tensor_rank` alone would not give those of the file."""
    ranks: dict[str, dict[str, list[int]]] = {}
    differ = set()
    for name, matrix in matrices.items():
        module, _, last = name.rpartition(".")
        owner, own = (module, _MATRICES[last].rpartition("_")[2]) if last in _MATRICES else (name, "tensorized")
        ranks.setdefault(owner, {})[own] = matrix.inner_ranks
        if matrix.inner_ranks != list(clip_ranks(matrix.modes, tensor_rank))[1:-1]:
            differ.add(owner)
    # longest name first: PEFT takes the first pattern that is an end of the module's name
    return {owner.removeprefix(ROOT): ranks[owner] for owner in sorted(differ, key=len, reverse=True)}


def _renamed(
    weights: Mapping[str, Tensor], matrices: Mapping[str, _Matrix], settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    own = tuple(f"{name}.layer." for name in matrices)
    renamed = {key: tensor for key, tensor in weights.items() if not key.startswith(own)}
    for name, matrix in matrices.items():
        module, _, last = name.rpartition(".")
        train = (
            f"{module}.{_MATRICES[last]}" if last in _MATRICES else f"{name}.{_PREFIX[settings['peft_type']]}tensorized"
        )
        renamed[f"{train}.flat"] = torch.cat([core.reshape(-1) for core in matrix.cores])
        if matrix.bias is not None:
            renamed[f"{train}.bias"] = matrix.bias
    return renamed


def _lost(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what loretta 0.1.0 trains and leaves out of its files."""
    lost = []
    if not any("Norm" in key for key in weights):
        lost.append("normalisation layers: those with 'Norm' in their names were trained (not LLaMA's or OPT's)")
    if settings.get("task_type") == "SEQ_CLS":
        if any(".deberta." in key for key in weights) and not any(".pooler." in key for key in weights):
            lost.append("pooler.dense: trained as a tensor train in place of the dense layer")
        if not any(f".{head}." in key for key in weights for head in ("classifier", "score")):
            lost.append("the classification head: the task is SEQ_CLS, and no classifier or score is in the file")
    return tuple(lost)
