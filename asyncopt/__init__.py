"""Torch optimizers over shared memory, with one switch between all ways of synchronizing."""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from asyncopt import _core as _core
except ImportError as error:
    raise ImportError(
        f"asyncopt._core: expected the compiled engine, got: {error}; build it with "
        "`pip install .` (needs g++ 12 or later, and torch 2.10 or later at run time)"
    ) from error
from asyncopt import errors
from asyncopt._version import __version__
from asyncopt.errors import (
    AsyncoptError,
    CheckpointError,
    DeviceError,
    DownloadError,
    LockTimeout,
    PeerError,
    RunTimeout,
    SegmentError,
    TaskError,
    WorkerError,
)
from asyncopt.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    ElasticAveraging,
    LocalSteps,
    RMSprop,
    rules,
)
from asyncopt.optim.kernels import syncs as _contracts
from asyncopt.run import (
    Loss,
    Metrics,
    Observer,
    Run,
    RunView,
    Worker,
    launch,
    stop_fork_server,
)
from asyncopt.run.checkpoint import Checkpoint, Checkpoints, load, resume, save
from asyncopt.run.delays import Delay
from asyncopt.store import Ledger
from asyncopt.tasks import TaskResult, cross_validate, map_tasks

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "AsyncoptError",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "Delay",
    "DeviceError",
    "DownloadError",
    "ElasticAveraging",
    "Ledger",
    "LocalSteps",
    "LockTimeout",
    "Loss",
    "Metrics",
    "Observer",
    "PeerError",
    "RMSprop",
    "Run",
    "RunTimeout",
    "RunView",
    "SegmentError",
    "TaskError",
    "TaskResult",
    "Worker",
    "WorkerError",
    "__version__",
    "cross_validate",
    "errors",
    "launch",
    "load",
    "map_tasks",
    "resume",
    "rules",
    "save",
    "stop_fork_server",
    "syncs",
]


def syncs() -> tuple[str, ...]:
    """Names of the ways in which an update can reach shared memory, as ``sync=`` takes them."""
    return tuple(_contracts())


if not TYPE_CHECKING:  # else every misspelt name would pass the type checkers

    def __getattr__(name: str) -> Any:
        """Parts that not everybody needs, some with further dependencies, at their first use."""
        if name in ("distributed", "simulate", "sparse", "studies"):
            return importlib.import_module(f"asyncopt.{name}")
        raise AttributeError(f"module 'asyncopt' has no attribute {name!r}")
