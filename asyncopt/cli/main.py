"""Entry point of the ``asyncopt`` command.

Spawned workers import this module again (it is their parent's main module), so it stays free of
heavy imports; and it must say clearly what to install where the ``cli`` extra is missing.
"""

from __future__ import annotations

import importlib.util
import sys

from asyncopt._install import command

NEEDED = ("typer", "rich", "matplotlib")


def app() -> None:
    """Run the command line; exits with 1 and one line on stderr where the extra is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: the asyncopt command needs {' and '.join(missing)}; "
            f"install it with: {command('cli')}",
            file=sys.stderr,
        )
        raise SystemExit(1)
    from asyncopt.cli.commands import cli

    cli()
