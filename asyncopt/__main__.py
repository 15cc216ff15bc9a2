"""``python -m asyncopt``: the command line."""

from asyncopt.cli.main import app

if __name__ == "__main__":  # spawned workers import this module again
    app()
