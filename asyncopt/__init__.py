"""Torch optimizers over shared memory, with one switch between all ways of synchronizing."""

try:
    from asyncopt import _core as _core
except ImportError as error:
    raise ImportError(
        f"asyncopt._core: expected the compiled engine, got: {error}; build it with "
        "`pip install .` (needs g++ 12 or later, and torch 2.10 or later at run time)"
    ) from error
from asyncopt import errors
from asyncopt._version import __version__
from asyncopt.errors import AsyncoptError, LockTimeout, RunTimeout, SegmentError, WorkerError
from asyncopt.optim import ASGD, SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop, rules
from asyncopt.optim.kernels import syncs as _contracts
from asyncopt.run import Run, Worker, launch
from asyncopt.store import Ledger

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "AsyncoptError",
    "Ledger",
    "LockTimeout",
    "RMSprop",
    "Run",
    "RunTimeout",
    "SegmentError",
    "Worker",
    "WorkerError",
    "__version__",
    "errors",
    "launch",
    "rules",
    "syncs",
]


def syncs() -> tuple[str, ...]:
    """Names of the ways in which an update can reach shared memory, as ``sync=`` takes them."""
    return tuple(_contracts())
