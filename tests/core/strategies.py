"""Random shapes and tensors for property tests."""

import numpy as np
from hypothesis import strategies as st

# Ones and primes on purpose; small enough that a dense SVD is a quick oracle.
shapes = st.lists(st.sampled_from([1, 2, 3, 4, 5, 7, 11]), min_size=1, max_size=5).filter(lambda s: np.prod(s) <= 3000)


@st.composite
def tensors(draw, dtypes=("float64", "float32", "complex128")):
    """Tensors with a spectrum that decays fast, slowly or not at all, on scales from tiny to huge."""
    shape = draw(shapes)
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    decay = draw(st.sampled_from([0.0, 0.5, 3.0]))
    tensor = rng.standard_normal(shape)
    if dtype.kind == "c":
        tensor = tensor + 1j * rng.standard_normal(shape)
    for axis, mode in enumerate(shape):
        weights = (1.0 + np.arange(mode)) ** -decay
        tensor = tensor * weights.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    scale = draw(st.sampled_from([1.0, 1e-25, 1e25] if dtype == np.float32 else [1.0, 1e-150, 1e150]))
    return (tensor * scale).astype(dtype)


def norm(x):
    """Frobenius norm that neither overflows nor vanishes."""
    x = np.asarray(x, dtype=np.result_type(x.dtype, np.float64)).ravel()
    largest = np.abs(x).max(initial=0.0)
    return float(largest * np.linalg.norm(x / largest)) if largest > 0 else 0.0
