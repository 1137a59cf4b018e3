"""What all tests share: no hub, repeatable hypothesis, one fixture for the array libraries."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import settings

# No deadline: the first example of a test pays for imports.  Repeatable: a red run must stay red when looked at.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")


def _read_only(values):
    array = np.array(values)
    array.flags.writeable = False
    return array


# Every library, and numpy once more with arrays that refuse to be written.
LIBRARIES = {
    "numpy": np.array,
    "numpy-read-only": _read_only,
    "torch": lambda values: torch.from_numpy(np.array(values)),
    "array-api-strict": array_api_strict.asarray,
}


@pytest.fixture(params=LIBRARIES)
def asarray(request):
    """Make an array of one of the libraries from a numpy array."""
    return LIBRARIES[request.param]
