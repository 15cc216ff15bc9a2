"""Checkpoints as the user sees them: save, load, resume."""

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
        path: a directory of its own; it is made if it is missing. One run writes there at a time.
        every: seconds between checkpoints.
        keep: how many of the newest stay.

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
    """A run at one moment, in private memory and ready to be written.

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
            args: what :class:`Contents` finds its objects in.
            step: default: the pushes that the stores among them have taken.
            meta: plain data of the caller's.
            ledger: what the workers did so far.
            positions: of the run's dispenser.
            workers: what each worker keeps to itself.
            loops: the settings of each worker's loops.
        """
        found = Contents(args)
        tensors, tree = found.read()
        if workers and workers[0] is not None:  # as with buffers, the first worker's stays
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
        """Put it on the disk, durably."""
        manifest = format.describe(self.contents, self.packed)
        files = {format.TENSORS: [self.packed], format.MANIFEST: [manifest]}
        return directory.path_of(directory.write(files, keep))


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A checkpoint that was read and checked whole.

    Attributes:
        path: where it lies.
        step: pushes that the stores had taken, or what the caller of :func:`save` said.
        meta: what the caller of :func:`save` gave.
        ledger: what the workers had done since the first start.
        positions: of the run's dispenser; None outside of a run.
        workers: what each worker of the run kept to itself; None where it is not known.
        loops: the settings of each worker's loops over batches by their numbers; None if it was
            written before they were recorded.
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
        """Give optimizers, modules and schedulers the values that were saved.

        Parameters, optimizer state, per-tensor numbers, hyperparameters, store versions, persistent
        buffers, extra state of modules and schedules are then what they were, bit for bit. A buffer
        of another shape takes that of the checkpoint, with a RuntimeWarning. No other worker may
        push meanwhile.

        Args:
            args: what was given to :func:`save` or :func:`asyncopt.launch`, built in the same way;
                the sync may be another one.

        Raises:
            CheckpointError: they are not the objects of this checkpoint. Nothing was changed.
        """
        Contents(args).write(self.tensors, self._tree)

    def changed_hyperparameters(self, args: object) -> list[str]:
        """The hyperparameters that :meth:`restore` will change, but for those of schedulers.

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

    Nothing is pickled: tensors are a safetensors file, all else is JSON, and both are checksummed.
    Files are readable by their owner alone.

    Args:
        obj: an object, or a list, tuple or dict of objects; also saved is what their attributes,
            closures and bound methods hold. No other worker may push meanwhile.
        path: the directory that holds the checkpoints; it is made if it is missing. (Before
            ``obj``, as in earlier versions, it works with a DeprecationWarning.)
        step: for the caller's own count; default: the pushes that the stores have taken.
        meta: plain data to keep with it: numbers, strings, tensors, and lists, tuples and dicts of
            them.
        keep: how many of the newest checkpoints stay in ``path``.

    Returns:
        The new checkpoint's directory, ``path/checkpoint-<number>``.

    Raises:
        CheckpointError: it cannot be written; older ones are untouched. Or another run writes to
            ``path``, or the path belongs to or leads through a symlink of another user.
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
    """Read one checkpoint and check all of it.

    Args:
        path: its own directory, ``.../checkpoint-<number>`` or whatever it was renamed to.

    Raises:
        CheckpointError: it is damaged or incomplete, was written in another format, or holds
            checkpoints instead of being one.
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
    """The newest whole checkpoint; damaged ones that are newer are passed over with a warning.

    Args:
        path: the directory that holds the checkpoints.

    Returns:
        The checkpoint, or None if there is none yet.

    Raises:
        CheckpointError: there are checkpoints, but none is whole; the newest whole one was written
            in another format; the directory belongs to another user.
    """
    where = Path(path).absolute()
    try:
        directory = Directory(where, write=False)
    except FileNotFoundError:
        return None
    with directory:
        numbers: list[int] = []
        # Again while the list changes: a writer may have removed what was listed for a newer one.
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
#: What reading a damaged or incomplete directory may say; all else is no fault of the checkpoint.
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
