"""Torch optimizers over shared memory; ``sync=`` chooses how workers share weights."""

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
    """Names of the syncs, as ``sync=`` takes them: the ways to write to shared memory."""
    return tuple(_contracts())


def __dir__() -> list[str]:
    return [*__all__, "optim", *_PARTS]


#: Parts that not everybody needs, some with further dependencies: imported at their first use.
_PARTS = ("distributed", "simulate", "sparse", "studies")

if TYPE_CHECKING:
    from asyncopt import distributed as distributed
    from asyncopt import simulate as simulate
    from asyncopt import sparse as sparse
    from asyncopt import studies as studies
else:  # type checkers would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _PARTS:
            return importlib.import_module(f"asyncopt.{name}")
        raise AttributeError(f"module 'asyncopt' has no attribute {name!r}")
