"""TT-SVD against tensorly's, on the shapes that weight matrices have."""

from __future__ import annotations

import numpy as np
import tensorly as tl
from tensorly.decomposition import tensor_train

import ttlib
from benchmarks.timing import compare, peak_megabytes

CASES = [
    (768, 64, [8, 8, 12, 8, 8], 5),
    (768, 768, [8, 8, 12, 12, 8, 8], 5),
    (768, 768, [8, 8, 12, 12, 8, 8], 64),
    (3072, 768, [12, 16, 16, 12, 8, 8], 16),
    (4096, 4096, [16] * 6, 5),
]


def rows(rounds: int = 5) -> list[str]:
    """One line of the table a case."""
    lines = []
    for height, width, shape, rank in CASES:
        matrix = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
        tensor = tl.tensor(matrix.reshape(shape))
        ranks = list(ttlib.clip_ranks(shape, rank))

        def ours(matrix=matrix, shape=shape, rank=rank):
            return ttlib.decompose(matrix, shape=shape, ranks=rank)

        def peer(tensor=tensor, ranks=ranks):
            return tensor_train(tensor, rank=ranks)

        time = compare(ours, peer, rounds=rounds)
        memory = peak_megabytes(ours) / peak_megabytes(peer)
        error, peer_error = (
            float(np.linalg.norm(dense.reshape(height, width) - matrix) / np.linalg.norm(matrix))
            for dense in (ours().to_tensor(), tl.tt_to_tensor(peer()))
        )
        lines.append(
            f"| {height} x {width} | {shape} | {rank} | {1e3 * time.ours:.1f} | {time.ratio:.2f} | {memory:.2f} | "
            f"{error:.4f} / {peer_error:.4f} |"
        )
    return lines


def table() -> str:
    """The table as Markdown."""
    head = [
        "| matrix | shape | rank | CPU ms | time / tensorly | peak memory / tensorly | error ours / tensorly |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + rows())
