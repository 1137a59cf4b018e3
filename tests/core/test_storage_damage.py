"""Damaged files, killed writers and full disks: the same train or a refusal, the old file or the new one."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import ttlib
from tests.core.tensor_files import bits, make, pack, refusal, unpack
from ttlib.storage import load, save

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def file(tmp_path):
    return tmp_path / "train.safetensors"


def damage(content, rng):
    """One random accident."""
    content = bytearray(content)
    length = 8 + int.from_bytes(content[:8], "little")
    match rng.integers(8):
        case 0 | 1:  # a bit of the header or its length
            content[rng.integers(length)] ^= 1 << rng.integers(8)
        case 2 | 3:  # a bit of the numbers
            content[rng.integers(length, len(content))] ^= 1 << rng.integers(8)
        case 4:
            del content[rng.integers(len(content)) :]
        case 5:  # two pieces of one size change places
            size = int(rng.integers(1, 40))
            a, b = rng.integers(0, len(content) - size, 2)
            content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
        case 6:  # a few random bytes on top, in between or instead
            a, b = sorted(rng.integers(0, len(content), 2))
            content[a : rng.choice([a, min(b, a + 8)])] = rng.bytes(rng.integers(1, 9))
        case 7:
            content = rng.bytes(rng.integers(200))
    return bytes(content)


def swapped_cores(content):
    """Each pair of neighbouring cores with their bytes exchanged, or with their names exchanged."""
    header, data = unpack(content)
    names = sorted(name for name in header if name.startswith("core"))
    for a, b in itertools.pairwise(names):
        (begin, middle), (_, end) = header[a]["data_offsets"], header[b]["data_offsets"]
        yield pack(header, data[:begin] + data[middle:end] + data[begin:middle] + data[end:])
        yield pack({**header, a: header[b], b: header[a]}, data)


def examine(file, mutations):
    originals = []
    for kind, dtype in [("tensor_train", "float32"), ("tt_matrix", "complex128"), ("tensor_train", "bfloat16")]:
        save(file, make(kind, dtype, "torch"))
        originals.append((file.read_bytes(), make(kind, dtype, "torch")))
    rng = np.random.default_rng(20_24)
    outcomes = {"refused": 0, "same": 0}
    like = torch.zeros(())
    for k in range(mutations):
        content, tt = originals[k % len(originals)]
        file.write_bytes(damage(content, rng))
        try:
            loaded = load(file, like=like)
        except ttlib.TTFileError as error:
            message = str(error)
            assert str(file) in message
            outcomes["refused"] += 1
        else:
            assert type(loaded) is type(tt)
            assert bits(loaded) == bits(tt)
            outcomes["same"] += 1
    for content, _ in originals:
        for swapped in swapped_cores(content):
            refusal(file, swapped)
    assert outcomes["refused"] > 0.9 * mutations


def test_damage_never_loads_as_another_train(file):
    examine(file, 2_000)


@pytest.mark.slow
def test_more_damage_never_loads_as_another_train(file):
    examine(file, 10_000)


# Interrupted and failing writes

KILLS = """
    import os, random, signal, sys, time
    import numpy as np
    from ttlib.storage import load, save
    from ttlib.tensor_train import TensorTrain

    path, kills = sys.argv[1], int(sys.argv[2])
    trains = [TensorTrain([np.full((1, 100_000, 1), float(k))]) for k in range(2)]
    rng = random.Random(0)
    save(path, trains[0])
    for _ in range(kills):
        worker = os.fork()
        if worker == 0:
            while True:
                for train in trains:
                    save(path, train)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        core = load(path).cores[0]
        assert core.shape == (1, 100_000, 1) and core.min() == core.max() and core[0, 0, 0] in (0, 1)
    save(path, trains[0])
"""

FULL_DISK = """
    import resource, signal, sys
    import numpy as np
    import ttlib
    from pathlib import Path
    from ttlib.storage import load, save
    from ttlib.tensor_train import TensorTrain

    path = Path(sys.argv[1])
    save(path, TensorTrain([np.zeros((1, 10, 1))]))
    old = path.read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in np.linspace(0, 80_000, 20).astype(int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        try:
            save(path, TensorTrain([np.ones((1, 10_000, 1))]))
        except ttlib.TTFileError as error:
            assert "File too large" in str(error) and str(path) in str(error), error
        else:
            raise AssertionError(limit)
        assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]
"""


def run(script, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(file, kills):
    run(KILLS, file, kills)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_full_disk_leaves_the_old_file(file):
    run(FULL_DISK, file)
