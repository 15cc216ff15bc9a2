"""A directory of numbered checkpoints: each is added atomically, and only the newest are kept.

    checkpoint-000000007/    complete; mode 0700, its files 0600
    .partial-<random>/       being written; left by a dead process if the lock is free
    .removed-<random>/       being removed
    .lock                    held by the one process that writes here

A new checkpoint is written to a temporary directory, synced file by file, renamed, and the rename
synced. Only then are older ones removed. After a crash or a power failure at any instruction, the
newest ``checkpoint-*`` is complete: the old one or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint.files import (
    close,
    open_directory,
    opened,
    read_file,
    sync_directory,
    write_file,
)

__all__ = ["Directory", "numbers_in"]

LOCK_GRACE = 5.0  # s until the lock of a process that was just killed is released

_NAME = re.compile(r"checkpoint-(\d{9,})")
_ASIDE = (".partial-", ".removed-")


class Directory:
    """An open directory of checkpoints.

    Args:
        path: of the directory.
        write: create it if missing, hold its lock until :meth:`close`, and remove leftovers of dead
            processes.

    Raises:
        CheckpointError: it belongs to another user, another process writes there, or the path
            contains another user's symlink.
        FileNotFoundError: it does not exist and ``write`` is false.
    """

    def __init__(self, path: Path, *, write: bool) -> None:
        self.path = path.absolute()
        with contextlib.ExitStack() as undo:
            with _explained(f"{str(self.path)!r} cannot be opened", write):
                self._fd = open_directory(self.path, create=write)
                undo.callback(close, self._fd)
                self._check_owner()
                if write:
                    undo.callback(close, self._lock())
                    self._clear_away()
            self._close = undo.pop_all()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptors and the lock."""
        self._close.close()

    def numbers(self) -> list[int]:
        """The numbers of the checkpoints here, oldest first."""
        return numbers_in(self._fd)

    def path_of(self, number: int) -> Path:
        """Path of a checkpoint."""
        return self.path / _name(number)

    def read(self, number: int, names: Iterable[str]) -> list[bytes]:
        """Files of a checkpoint.

        Raises:
            OSError: one cannot be read.
        """
        with opened(_open_inner(_name(number), self._fd)) as inner:
            return [read_file(name, inner) for name in names]

    def write(self, files: Mapping[str, Iterable[bytes]], keep: int) -> int:
        """Add a checkpoint, durably, then remove all but the newest ``keep``.

        Returns:
            Its number, one above the highest here.

        Raises:
            CheckpointError: it could not be written. Existing checkpoints are untouched.
        """
        number = max(self.numbers(), default=0) + 1
        with _explained(f"checkpoint {number} in {str(self.path)!r} cannot be written", True):
            aside = f"{_ASIDE[0]}{secrets.token_hex(8)}"
            try:
                os.mkdir(aside, 0o700, dir_fd=self._fd)
                with opened(_open_inner(aside, self._fd)) as inner:
                    for name, pieces in files.items():
                        write_file(name, inner, pieces)
                    sync_directory(inner)
                os.rename(aside, _name(number), src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    shutil.rmtree(aside, dir_fd=self._fd)
                raise
            sync_directory(self._fd)
        try:
            self._remove(self.numbers()[:-keep])
        except OSError as error:
            warnings.warn(
                f"checkpoint: older ones in {str(self.path)!r} cannot be removed: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
        return number

    def _remove(self, numbers: list[int]) -> None:
        """Rename each checkpoint, then delete it, so that a partial one is never visible."""
        aside = {_name(old): f"{_ASIDE[1]}{secrets.token_hex(8)}" for old in numbers}
        for name, new in aside.items():
            os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        if aside:
            sync_directory(self._fd)
        for new in aside.values():
            shutil.rmtree(new, dir_fd=self._fd)

    def _clear_away(self) -> None:
        """Remove files of killed writers, after making their renames durable."""
        left = [name for name in os.listdir(self._fd) if name.startswith(_ASIDE)]
        if left:
            sync_directory(self._fd)
        for name in left:
            shutil.rmtree(name, dir_fd=self._fd)

    def _check_owner(self) -> None:
        info = os.fstat(self._fd)
        if info.st_uid not in (0, os.geteuid()):
            raise CheckpointError(
                f"path: expected a directory of your own, got {str(self.path)!r}, which belongs to "
                f"user {info.st_uid}; name another one"
            )
        if info.st_mode & 0o1002 == 0o002:
            raise CheckpointError(
                f"path: expected a directory that only you can write to, got {str(self.path)!r}, "
                "which everybody can; chmod o-w it or name another one"
            )

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(".lock", flags, 0o600, dir_fd=self._fd)
        try:
            deadline = time.monotonic() + LOCK_GRACE
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"path: expected a directory that no other run writes to, got "
                        f"{str(self.path)!r}; end that run or name another directory"
                    )
                time.sleep(0.05)
        except BaseException:
            close(fd)
            raise
        return fd


def numbers_in(fd: int) -> list[int]:
    """The numbers of the checkpoints in an open directory, oldest first."""
    found = (_NAME.fullmatch(name) for name in os.listdir(fd))
    return sorted(int(match[1]) for match in found if match)


def _open_inner(name: str, at: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=at)


def _name(number: int) -> str:
    return f"checkpoint-{number:09d}"


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


@contextlib.contextmanager
def _explained(what: str, write: bool) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not write:
            raise
        reason = error.strerror or str(error)
        raise CheckpointError(f"path: {what}: {reason}") from error
