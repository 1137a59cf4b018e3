"""`python -m ttlib` and the console script `ttlib`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what must be installed for it."""
    try:
        from ttlib.cli import app  # noqa: PLC0415  # typer and rich are optional
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        sys.exit(f"error: the command line needs the package {error.name}; pip install 'ttlib[cli]'")
    app(prog_name="ttlib")


if __name__ == "__main__":
    main()
