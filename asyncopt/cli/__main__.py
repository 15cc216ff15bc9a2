"""``python -m asyncopt.cli`` is the same as the ``asyncopt`` command."""

from asyncopt.cli.main import app

if __name__ == "__main__":
    app()
