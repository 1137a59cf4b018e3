"""Trains to save, and safetensors containers taken apart and put together by hand."""

import json

import numpy as np
import pytest
import torch

from ttlib.errors import TTFileError
from ttlib.storage import load
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
RANKS = (1, 2, 3, 1)
MODES = {"tensor_train": [(3,), (4,), (2,)], "tt_matrix": [(3, 2), (2, 2), (1, 4)]}


def make(kind, dtype, library):
    """The same numbers in each library and, rounded, in each dtype."""
    rng = np.random.default_rng(0)
    cores = []
    for k, modes in enumerate(MODES[kind]):
        shape = (RANKS[k], *modes, RANKS[k + 1])
        core = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        core = core if "complex" in dtype else core.real
        core = np.ascontiguousarray(core if dtype == "bfloat16" else core.astype(dtype))
        cores.append(core if library == "numpy" else torch.tensor(core, dtype=getattr(torch, dtype)))
    return (TensorTrain if kind == "tensor_train" else TTMatrix)(cores)


def bits(tt):
    """All that a round trip must keep: the dtype, and shape and bytes of every core."""
    cores = [c.view(torch.int16) if c.dtype == torch.bfloat16 else c for c in map(torch.as_tensor, tt.cores)]
    return str(tt.dtype).removeprefix("torch."), [(tuple(core.shape), core.numpy().tobytes()) for core in cores]


def unpack(content):
    """The header and the data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pack(header, data=b""):
    """A safetensors file with this header, an object or already text."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def refusal(file, content):
    """The message with which a file of this content is refused; it names the file."""
    file.write_bytes(content)
    with pytest.raises(TTFileError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(f"cannot load '{file}': ")
    assert len(message) < 1000
    return message
