"""The console script `ttlib`: it turns options into calls of the library and prints what comes back.

`application` is what all commands share; a module a group of commands registers with it.  Results go to stdout,
progress and errors to stderr; a mistake is one line and exit code 2.
"""

from __future__ import annotations

from ttlib.cli import checkpoints, files, pictures, sizes
from ttlib.cli.application import app

__all__ = ["app", "checkpoints", "files", "pictures", "sizes"]
