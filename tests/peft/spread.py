"""Small models with adapters, the same on every rank, and a few steps of training them alone or on several ranks."""

import contextlib

import torch
from peft import get_peft_model
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import ttlib_peft
from tests.peft import tiny
from ttlib.errors import TTError

STEPS = 3


CONFIGS = {
    "rep": lambda **options: ttlib_peft.LorettaRepConfig(
        **{"r": 4, "tensor_rank": 3, "seed": 0, "target_modules": ["q_proj", "o_proj"], **options}
    ),
    "adp": lambda **options: ttlib_peft.LorettaAdpConfig(
        **{"bottleneck": 8, "tensor_rank": 3, "seed": 0, "target_modules": ["o_proj", "down_proj"], **options}
    ),
}


def llama(method, dtype=torch.float64, reentrant=None, **options):
    model = get_peft_model(tiny.llama(dtype), CONFIGS[method](**options))
    if reentrant is not None:
        tiny.checkpointed(model, use_reentrant=reentrant)
        model.enable_input_require_grads()
    return model.train()


def bert(dtype=torch.float32):
    """With trained norms and a trained head, which PEFT copies, and a pooler that becomes a tensor train."""
    config = ttlib_peft.LorettaAdpConfig(
        bottleneck=8, tensor_rank=3, seed=0, train_norms=True, tensorize_modules=["pooler.dense"], task_type="SEQ_CLS"
    )
    torch.manual_seed(3)
    return get_peft_model(tiny.bert(dtype), config).eval()  # dropout would differ


def trained(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def whole(model):
    """Return what is trained, by its name outside DistributedDataParallel.  Every rank calls this."""
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in trained(model).items()
    }


def batch(step, rows):
    return torch.randint(0, tiny.VOCABULARY, (rows, 5), generator=torch.Generator().manual_seed(step))


def loss(model, ids):
    return model(input_ids=ids, labels=ids).loss


def train(model, rank=None, *, micro=1, mode="every pass", sgd=False):
    """Take some steps, each over *micro* batches; a rank takes its half of each, None takes all."""
    if sgd:
        optimiser = torch.optim.SGD(trained(model).values(), lr=0.5)
    else:
        optimiser = torch.optim.AdamW(trained(model).values(), lr=1e-2)
    for step in range(STEPS):
        batches = [ids if rank is None else ids.chunk(2)[rank] for ids in batch(step, 4 * micro).chunk(micro)]
        if mode == "evaluation":
            model.eval()
            with torch.no_grad():
                loss(model, batches[0])
            model.train()
        if mode == "one backward":
            sum(loss(model, ids) / micro for ids in batches).backward()
        else:
            for i, ids in enumerate(batches):
                with synchronised(model, mode, last=i == micro - 1):
                    (loss(model, ids) / micro).backward()
        optimiser.step()
        optimiser.zero_grad()
    return whole(model)


def synchronised(model, mode, *, last):
    if mode in ("last pass", "last pass, kept whole") and isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        if mode == "last pass, kept whole":
            model.set_reshard_after_backward(last)
    elif mode == "last pass" and isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def with_two_adapters():
    model = llama("rep")
    model.add_adapter("second", CONFIGS["rep"](seed=1))
    return model


def refusal(action, *args):
    try:
        action(*args)
    except (TTError, TypeError, OSError) as error:
        return type(error), str(error)
    return None
