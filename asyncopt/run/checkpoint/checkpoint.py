"""Public interface of checkpoints: save, load, resume."""

from __future__ import annotations

import datetime
import errno
import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from asyncopt import _core
from asyncopt._checks import whole
from asyncopt._renamed import renamed
from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint import format
from asyncopt.run.checkpoint.codec import decode, encode
from asyncopt.run.checkpoint.contents import EXTRA_STATE, IN_TREE, Contents
from asyncopt.run.checkpoint.directory import Directory, numbers_in
from asyncopt.run.checkpoint.files import open_directory, opened, read_file
from asyncopt.run.checkpoint.ledgers import ledger_from_json, ledger_to_json
from asyncopt.run.checkpoint.loops import Settings
from asyncopt.run.checkpoint.worker_states import private_of
from asyncopt.store.ledger import Ledger
from asyncopt.warn import warn_caller

__all__ = ["Checkpoint", "Checkpoints", "Snapshot", "load", "resume", "save"]

KEEP = 3

Loops = dict[int, Settings]


@dataclass(frozen=True)
class Checkpoints:
    """When a run writes checkpoints, where, and how many it keeps.

    Args:
        path: a directory for these checkpoints only, created if missing. One run may write to it
            at a time.
        every: seconds between checkpoints.
        keep: number of newest checkpoints that are kept.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    path: str | os.PathLike[str]
    every: float = 30.0
    keep: int = KEEP

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"path: expected a path, got {type(self.path).__name__}")
        if not os.fspath(self.path):
            raise ValueError("path: expected a directory, got ''; pass '.' for the current one")
        if isinstance(self.every, bool) or not isinstance(self.every, int | float):
            raise TypeError(f"every: expected seconds > 0, got {self.every!r}")
        if not 0 < self.every < math.inf:
            raise ValueError(f"every: expected seconds > 0, got {self.every!r}")
        whole("keep", self.keep, 1)


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy of a run in private memory, ready to be written.

    Attributes:
        packed: the tensor file.
        contents: the JSON file's own part.
    """

    packed: bytes
    contents: dict[str, Any]

    @classmethod
    def take(
        cls,
        args: object,
        *,
        step: int | None = None,
        meta: Any = None,
        ledger: Ledger | None = None,
        positions: _core.Positions | None = None,
        workers: Sequence[bytes | None] = (),
        loops: Sequence[Loops] = (),
    ) -> Snapshot:
        """Copy everything; no push may run at the same time.

        Args:
            args: objects for :class:`Contents`.
            step: default: the number of pushes to their stores.
            meta: plain data of the caller.
            ledger: the workers' counters so far.
            positions: positions of the run's loops over batches.
            workers: private state of each worker.
            loops: the settings of each worker's loops.
        """
        found = Contents(args)
        tensors, tree = found.read()
        if workers and workers[0] is not None:  # as with buffers, the first worker's is kept
            of_first, its_tensors = private_of(workers[0])
            for mine, its in zip(tree["modules"], of_first["modules"], strict=True):
                mine["extra"] = its["extra"]
            tensors |= {k: v for k, v in its_tensors.items() if k.startswith(EXTRA_STATE)}
        for rank, data in enumerate(workers):
            if data is not None:
                tensors[_worker(rank)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        contents = {
            "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": found.pushes if step is None else step,
            "meta": encode(meta, f"{IN_TREE}meta", tensors),
            "ledger": ledger_to_json(ledger or Ledger(0, ())),
            "positions": positions,
            "workers": len(workers),
            "loops": [list(each.items()) for each in loops],
            "tree": tree,
        }
        return cls(format.pack(tensors), contents)

    def write(self, directory: Directory, keep: int) -> Path:
        """Write it to disk, durably."""
        manifest = format.describe(self.contents, self.packed)
        files = {format.TENSORS: [self.packed], format.MANIFEST: [manifest]}
        return directory.path_of(directory.write(files, keep))


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A checkpoint that was read and verified completely.

    Attributes:
        path: its directory.
        step: number of pushes to the stores, or the ``step`` passed to :func:`save`.
        meta: the ``meta`` passed to :func:`save`.
        ledger: the workers' counters since the first start.
        positions: positions of the run's loops over batches; None outside of a run.
        workers: private state of each worker of the run; None where unknown.
        loops: the settings of each worker's loops over batches by their numbers; None if the
            checkpoint was written before they were recorded.
        tensors: parameters, buffers and state by name, as ``tensors.safetensors`` holds them.
    """

    path: Path
    step: int
    meta: Any
    ledger: Ledger
    positions: _core.Positions | None
    workers: tuple[bytes | None, ...]
    loops: tuple[Loops, ...] | None
    tensors: dict[str, torch.Tensor]
    _tree: dict[str, Any] = field(compare=False)

    def restore(self, args: object) -> None:
        """Restore optimizers, modules and schedulers to the saved values.

        Parameters, optimizer state, per-tensor numbers, hyperparameters, store versions, persistent
        buffers, extra state of modules and schedules are restored bit for bit. A buffer of another
        shape takes that of the checkpoint, with a RuntimeWarning. No other worker may push
        meanwhile.

        Args:
            args: the objects passed to :func:`save` or :func:`asyncopt.launch`, built in the same
                way; the sync may differ.

        Raises:
            CheckpointError: the objects do not match this checkpoint. Nothing was changed.
        """
        Contents(args).write(self.tensors, self._tree)

    def changed_hyperparameters(self, args: object) -> list[str]:
        """The hyperparameters that :meth:`restore` will change, except those set by schedulers.

        Args:
            args: as for :meth:`restore`.

        Returns:
            Phrases such as "optimizers[0]: lr is 0.1 in the checkpoint, 0.01 here".
        """
        return Contents(args).changed_hyperparameters(self._tree, self.tensors)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, step={self.step})"


@renamed(args="obj")
def save(
    obj: object,
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    meta: Any = None,
    keep: int = KEEP,
) -> Path:
    """Write a checkpoint of models, asyncopt optimizers and schedulers, atomically and durably.

    Nothing is pickled: tensors are in a safetensors file, all else is JSON, and both have
    checksums. Files are readable only by their owner.

    Args:
        obj: an object, or a list, tuple or dict of objects. Objects held by their attributes,
            closures and bound methods are saved too. No other worker may push meanwhile.
        path: the directory that holds the checkpoints, created if missing. (Passing it before
            ``obj``, as in earlier versions, gives a DeprecationWarning.)
        step: the caller's own count; default: the number of pushes to the stores.
        meta: plain data to save with it: numbers, strings, tensors, and lists, tuples and dicts of
            them.
        keep: number of newest checkpoints that are kept in ``path``.

    Returns:
        The new checkpoint's directory, ``path/checkpoint-<number>``.

    Raises:
        CheckpointError: it cannot be written; older ones are untouched. Or another run writes to
            ``path``, or the path is owned by another user or contains another user's symlink.
        TypeError, ValueError: an argument is wrong.
    """
    whole("keep", keep, 1)
    if isinstance(obj, str | os.PathLike) and not isinstance(path, str | os.PathLike):
        warn_caller("save: the object comes first; write save(obj, path)", DeprecationWarning)
        obj, path = path, obj
    snapshot = Snapshot.take(obj, step=step, meta=meta)
    with Directory(Path(path), write=True) as directory:
        return snapshot.write(directory, keep)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read one checkpoint and verify all of it.

    Args:
        path: its directory, ``.../checkpoint-<number>`` or renamed.

    Raises:
        CheckpointError: it is damaged or incomplete, was written in another format, or is a
            directory of checkpoints.
        FileNotFoundError: there is no such directory.
    """
    where = Path(path).absolute()
    with opened(open_directory(where)) as fd:
        if numbers_in(fd):
            raise CheckpointError(
                f"path: expected one checkpoint, got {str(where)!r}, which holds several; name one "
                "of them, or call asyncopt.resume(path) for the newest"
            )
        return _checked(where, lambda: [read_file(name, fd) for name in _FILES])


def resume(path: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest intact checkpoint; newer damaged ones are skipped with a warning.

    Args:
        path: the directory that holds the checkpoints.

    Returns:
        The checkpoint, or None if there is none yet.

    Raises:
        CheckpointError: all checkpoints are damaged; the newest intact one was written in another
            format; or the directory belongs to another user.
    """
    where = Path(path).absolute()
    try:
        directory = Directory(where, write=False)
    except FileNotFoundError:
        return None
    with directory:
        numbers: list[int] = []
        # Repeat while the list changes: a writer may have replaced a listed one by a newer one.
        while numbers != (listed := directory.numbers()):
            numbers = listed
            for number in reversed(numbers):
                try:
                    read = functools.partial(directory.read, number, _FILES)
                    return _checked(directory.path_of(number), read)
                except format.FormatError:
                    raise
                except CheckpointError as error:
                    warnings.warn(f"{error}; trying the one before", RuntimeWarning, stacklevel=2)
    if numbers:
        raise CheckpointError(
            f"path: expected a whole checkpoint in {str(where)!r}, got {len(numbers)} damaged "
            "ones; restore them from elsewhere, or start anew in another directory"
        )
    return None


_FILES = (format.MANIFEST, format.TENSORS)
#: Error numbers that indicate a damaged or incomplete directory; others have other causes.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EIO)


def _worker(rank: int) -> str:
    return f"{IN_TREE}workers.{rank}"


def _checked(path: Path, read: Callable[[], list[bytes]]) -> Checkpoint:
    try:
        described, packed = read()
        manifest = format.parse(described)
        tensors = format.unpack(manifest, packed)
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        raise CheckpointError(f"{path}: expected a whole checkpoint, got {error}") from error
    except CheckpointError as error:
        raise type(error)(f"{path}/{error}") from None
    loops = manifest.get("loops")
    kept = (tensors.pop(_worker(rank), None) for rank in range(manifest["workers"]))
    return Checkpoint(
        path=path,
        step=manifest["step"],
        meta=decode(manifest["meta"], tensors),
        ledger=ledger_from_json(manifest["ledger"]),
        positions=manifest["positions"],
        workers=tuple(None if each is None else each.numpy().tobytes() for each in kept),
        loops=None if loops is None else tuple(dict(each) for each in loops),
        tensors=tensors,
        _tree=manifest["tree"],
    )
