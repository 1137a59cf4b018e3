"""What is in a compressed checkpoint, as `ttlib compress` and `ttlib inspect` print it."""

from __future__ import annotations

from dataclasses import asdict

from ttlib.checkpoint import Archive
from ttlib.cli.integers import write_count, write_ranks, write_shape
from ttlib.cli.printing import print_fields, print_json, print_table, printable, write_compression


def print_archive(found: Archive, *, json_output: bool) -> None:
    """Print what became of each weight and of all of them, as a table or as JSON."""
    if json_output:
        print_json(asdict(found))
        return
    print_table(
        ("weight", "modes", "ranks"),
        ("parameters", "smaller", "error"),
        (
            (
                printable(name),
                write_shape(weight.modes),
                write_ranks(weight.ranks),
                write_count(weight.parameters),
                write_compression(weight.shape[0] * weight.shape[1] / weight.parameters),
                f"{weight.relative_error:.2e}",
            )
            for name, weight in found.weights.items()
        ),
    )
    print_fields(
        {
            "parameters": f"{write_count(found.parameters_before)} -> {write_count(found.parameters)}",
            "kept": f"{found.parameters / found.parameters_before:.1%}",
        }
    )
