"""Small checkpoint files, whole and damaged in the ways that downloads and conversions damage them."""

import json

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def weights(seed=0):
    """A few tensors, as a language model of two layers has them."""
    rng = np.random.default_rng(seed)
    shapes = {"embed.weight": (32, 8), "norm.weight": (8,), "step": ()}
    shapes |= {f"layers.{k}.{name}.weight": (8, 12) for k in range(2) for name in ("up", "gate")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def single_file(path, tensors=None, metadata=None):
    """Write one safetensors file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(weights() if tensors is None else tensors, path, metadata)
    return path


def sharded_folder(folder, tensors=None, shards=3):
    """Write `model-00001-of-0000n.safetensors`, … and their index; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    homes = {}
    for k in range(shards):
        names = list(tensors)[k::shards]
        home = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names}, folder / home, {"format": "pt"})
        homes |= dict.fromkeys(names, home)
    write_index(folder, homes)
    return folder


def write_index(folder, homes):
    """Write the index that says in which file each tensor is; returns its path."""
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": homes}))
    return path


def read_index(folder):
    """Return in which file each tensor is."""
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def hub_cache(folder, tensors=None):
    """Write a model as the hub's cache holds it, the files links to blobs; returns the folder."""
    blob = single_file(folder / "blobs" / "0a1b2c.safetensors", tensors)
    link = folder / "snapshots" / "5f6e7d" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return folder


def cut(path, nbytes):
    """Take the last *nbytes* bytes from a file."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - nbytes)
    return path


def torch_file(path, tensors):
    """Write torch tensors, for the dtypes that numpy has not: bfloat16, float8_e4m3fn, …; returns the path."""
    safetensors.torch.save_file(tensors, path)
    return path


def bfloat16_file(path, tensors=None):
    """Write the weights in bfloat16; returns the path."""
    tensors = weights() if tensors is None else tensors
    return torch_file(path, {name: torch.from_numpy(np.array(x)).bfloat16() for name, x in tensors.items()})


def pack(header, data=b""):
    """The bytes of a safetensors file with any header, right or wrong; a text is taken as it is."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def sparse_file(path, shape, dtype="F32", *, name="weight"):
    """A file with one large tensor of zeros that takes no room on the disk; returns the path."""
    nbytes = int(np.prod(shape)) * {"F64": 8, "F32": 4}.get(dtype, 2)
    head = pack({name: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, nbytes]}})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + nbytes)
    return path


def gguf_file(path, tensors, metadata=None):
    """Write a gguf file of {name: (numbers, name of the ggml type)} with texts and a vocabulary; returns the path."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("a test")
    writer.add_token_list([f"word {k}" for k in range(100)])
    writer.add_array("scores", [0.5] * 7)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value)
    for name, (values, kind) in tensors.items():
        quantised = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
