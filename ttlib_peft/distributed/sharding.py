"""Shard a model with adapters (FSDP2), and notice when something that was to be sharded is not.

All cores of a train are one flat vector, so FSDP2's own placement, Shard(0), divides every train evenly whatever its
ranks; separate cores would need a rule, since a first core has the size 1 in front.  Kept starts are buffers: every
rank has them whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from ttlib.errors import TTError
from ttlib_peft.distributed.lockstep import from_all, is_distributed
from ttlib_peft.tt_linear import TTLinear

Model = TypeVar("Model", bound=nn.Module)

_WRAPPERS = (DistributedDataParallel, FullyShardedDataParallel, FSDPModule)


class ShardingError(TTError, RuntimeError):
    """A model that cannot be sharded, or that is not sharded although it should be."""


def shard(
    model: Model,
    *,
    mesh: DeviceMesh | None = None,
    blocks: Sequence[str] | None = None,
    reshard_after_forward: bool | None = None,
    mp_policy: MixedPrecisionPolicy | None = None,
    offload_policy: OffloadPolicy | None = None,
) -> Model:
    """Shard a model with adapters over the ranks (FSDP2, in place) and return it; every rank calls this.

    >>> import torch.distributed as dist, transformers, peft, ttlib_peft
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32))
    >>> model = shard(peft.get_peft_model(gpt2, ttlib_peft.LorettaRepConfig(target_modules=["c_attn"])))
    >>> assert_sharded(model)
    >>> dist.destroy_process_group()

    Each block of the model is a unit, gathered when it runs; the rest is one more.  Add all adapters before, make the
    optimiser afterwards.  The trained parameters and the kept starts of all adapters become those of rank 0, since
    each rank may have drawn its own; the frozen base has to be the same already.

    Args:
        model: usually a PeftModel.
        mesh: the ranks to shard over; None takes all of them.
        blocks: class names of the blocks, as in ["LlamaDecoderLayer"]; None takes those that transformers never splits.
        reshard_after_forward, mp_policy, offload_policy: as for torch's `fully_shard`, for every unit.  A model in
            bfloat16 whose adapters are in float32 needs no mp_policy.

    Raises ShardingError without a process group, for a model that is wrapped already, that lacks such blocks, or that
    is not of the same structure on every rank.

    Source: torch's `fully_shard` (Zhao et al. 2023, PyTorch FSDP, describes the first version).
    """
    if not is_distributed():
        msg = "there is no process group to shard over: start with torchrun and call dist.init_process_group()"
        raise ShardingError(msg)
    wrapped = next((m for m in model.modules() if isinstance(m, _WRAPPERS)), None)
    if wrapped is not None:
        msg = f"the model holds a {type(wrapped).__name__} already: give the model itself to shard, once"
        raise ShardingError(msg)
    units = _without_shared(model, [*_copies_of_another_dtype(model), *_blocks(model, blocks)])
    _take_from_rank_zero(model)
    units.append(model)
    for unit in units:
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=reshard_after_forward,
            mp_policy=mp_policy or MixedPrecisionPolicy(),
            offload_policy=offload_policy or OffloadPolicy(),
        )
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")  # it does not come through forward
    return model


def assert_sharded(model: nn.Module) -> None:
    """Raise ShardingError unless all that *model* trains is sharded with FSDP2.

    accelerate, and so Trainer, falls back to DistributedDataParallel without a word where it finds no accelerator,
    whatever was configured; the memory and the speed are then not those that were asked for.  See `ShardingGuard`.
    """
    kind = type(model).__name__
    if isinstance(model, DistributedDataParallel):
        msg = f"the model is a {kind}: every rank holds all of it; accelerate falls back to this where it finds no GPU"
    elif isinstance(model, FullyShardedDataParallel):
        msg = f'the model is a {kind}, which is FSDP 1: ask for the second version, fsdp_config={{"version": 2}}'
    elif not isinstance(model, FSDPModule):
        msg = (
            f"the model is a {kind} that nobody sharded: call ttlib_peft.distributed.shard; if accelerate was to do "
            "it, it found no GPU and fell back to DistributedDataParallel"
        )
    elif any(isinstance(module, TTLinear) and isinstance(module, FSDPModule) for module in model.modules()):
        msg = "a TTLinear is a unit of its own, which is never gathered: wrap the blocks of the model, not its leaves"
    else:
        whole = [n for n, p in model.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
        if not whole:
            return
        msg = (
            f"{len(whole)} trained parameters are not sharded and would differ between the ranks, such as {whole[0]}: "
            "add adapters before sharding"
        )
    raise ShardingError(msg)


def assert_same_start(model: nn.Module) -> None:
    """Raise ShardingError unless the kept starts of all adapters are the same on every rank; every rank calls this.

    FSDP2 synchronises nothing.  Ranks that drew their own starts would each train another model.
    """
    if not is_distributed():
        return
    digest = hashlib.sha256()
    for start in _starts(model):
        digest.update(start.float().cpu().numpy().tobytes())
    if len(set(from_all(digest.hexdigest()))) > 1:
        msg = (
            "the ranks drew different starts of the adapters: give the configuration a seed, as in "
            "LorettaRepConfig(seed=0), or shard with ttlib_peft.distributed.shard, which takes those of rank 0"
        )
        raise ShardingError(msg)


class ShardingGuard(TrainerCallback):
    """Stop a Trainer before its first step when the model is not sharded as FSDP2 would.

    >>> import ttlib_peft
    >>> callbacks = [ttlib_peft.distributed.ShardingGuard()]  # Trainer(…, callbacks=callbacks)

    It checks what `assert_sharded` and `assert_same_start` check, and raises ShardingError.
    """

    def on_train_begin(self, *_: Any, model: nn.Module | None = None, **__: Any) -> None:
        """Check the model as Trainer is about to train it."""
        if model is None:
            msg = "Trainer passed no model to its callbacks, so nothing could be checked"
            raise ShardingError(msg)
        assert_sharded(model)
        assert_same_start(model)


def _blocks(model: nn.Module, names: Sequence[str] | None) -> list[nn.Module]:
    """Return the blocks, inner ones first."""
    wanted = {name for m in model.modules() for name in getattr(m, "_no_split_modules", None) or ()}
    if names is not None:
        wanted = set(names)
    found = [module for module in model.modules() if type(module).__name__ in wanted and module is not model]
    if not found:
        msg = (
            f"no module of this {type(model).__name__} is a {' or '.join(sorted(wanted)) or 'block that is known'}: "
            'name the classes of its blocks, as in blocks=["LlamaDecoderLayer"]'
        )
        raise ShardingError(msg)
    return found[::-1]


def _without_shared(model: nn.Module, units: list[nn.Module]) -> list[nn.Module]:
    """Leave out units with a parameter that something outside has too: tied embeddings are gathered by the root."""
    uses = _uses(model)
    return [unit for unit in units if all(uses[parameter] == n for parameter, n in _uses(unit).items())]


def _uses(module: nn.Module) -> Counter[nn.Parameter]:
    return Counter(parameter for _, parameter in module.named_parameters(remove_duplicate=False))


def _copies_of_another_dtype(model: nn.Module) -> list[nn.Module]:
    """Return the trained copies of modules (norms, a head) that a unit of the adapters' dtype cannot hold.

    FSDP2 reduces the gradients of a unit in one dtype; PEFT keeps adapters of a bfloat16 model in float32 and the
    modules it copies in bfloat16.
    """
    adapters = {module.flat.dtype for module in model.modules() if isinstance(module, TTLinear)}
    return [
        copy
        for wrapper in model.modules()
        if isinstance(wrapper, ModulesToSaveWrapper)
        for copy in wrapper.modules_to_save.values()
        if any(parameter.dtype not in adapters for parameter in copy.parameters())
    ]


def _starts(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, TTLinear):
            yield from module.buffers(recurse=False)


def _take_from_rank_zero(model: nn.Module) -> None:
    """Make trained parameters, all adapters and their starts those of rank 0."""
    adapters = [p for m in model.modules() if isinstance(m, TTLinear) for p in m.parameters()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tensors: list[Tensor] = [*dict.fromkeys((*adapters, *trained)), *_starts(model)]
    structure = [(name, p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()]
    if any(other != structure for other in from_all(structure)):
        msg = "the model is not the same on every rank: build it, and add its adapters, in the same way on each"
        raise ShardingError(msg)
    if any(tensor.is_meta for tensor in tensors):
        msg = "the adapters are on the meta device, without numbers: load the adapter before sharding"
        raise ShardingError(msg)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    for tensor in tensors:
        sent = tensor.detach().to(accelerator or "cpu")  # backends of accelerators send nothing from the CPU
        dist.broadcast(sent, src=0)
        tensor.detach().copy_(sent)
