"""File operations that are safe against other processes, other users and disk errors.

Every path is opened once, component by component, and then used by descriptor. Symlinks are
followed only on the path to the user's directory, and only if the user or root made them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from asyncopt.errors import CheckpointError

__all__ = ["close", "open_directory", "opened", "read_file", "sync_directory", "write_file"]

CHUNK = 1 << 24  # bytes for one call of write or read
MAX_LINKS = 40  # as in the kernel's own path walk

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(fd: int) -> Iterator[int]:
    """Context that closes a descriptor on exit."""
    try:
        yield fd
    finally:
        close(fd)


def close(fd: int) -> None:
    """Close a descriptor and ignore errors, which ``fsync`` has reported already."""
    with contextlib.suppress(OSError):
        os.close(fd)


def open_directory(path: Path, *, create: bool = False) -> int:
    """A descriptor of a directory.

    Args:
        path: absolute.
        create: create missing components, mode 0700, durably.

    Raises:
        CheckpointError: a component is a symlink that another user made.
        OSError: as from ``os.open``, of the whole path.
    """
    try:
        return _walked(path, create)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def _walked(path: Path, create: bool) -> int:
    todo = list(reversed(path.parts[1:]))
    links = 0
    at = os.open("/", _STEP)
    try:
        while todo:
            name = todo.pop()
            with opened(_step(name, at, create)) as inner:
                target = _link_target(inner, name, path)
                if target is None:
                    at, before = os.dup(inner), at
                    close(before)
                    continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            if target.is_absolute():
                close(at)
                at = os.open("/", _STEP)
            todo += reversed([part for part in target.parts if part != "/"])
        return os.open(".", _LIST, dir_fd=at)
    finally:
        close(at)


def _step(name: str, at: int, create: bool) -> int:
    """A descriptor of one component itself, symlink or not."""
    try:
        return os.open(name, _STEP, dir_fd=at)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):  # another process created it first
        os.mkdir(name, 0o700, dir_fd=at)
    with opened(os.open(".", _LIST, dir_fd=at)) as parent:
        sync_directory(parent)
    return os.open(name, _STEP, dir_fd=at)


def _link_target(fd: int, name: str, path: Path) -> Path | None:
    """Target of an open symlink; None if it is not a symlink."""
    info = os.fstat(fd)
    if not stat.S_ISLNK(info.st_mode):
        return None
    if info.st_uid not in (0, os.geteuid()):
        raise CheckpointError(
            f"path: expected no symlink of another user, got {name!r} in {str(path)!r}, made by "
            f"user {info.st_uid}; name the directory itself"
        )
    return Path(os.readlink("", dir_fd=fd))


def sync_directory(fd: int) -> None:
    """Make creations, renames and removals in a directory durable."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system does not sync directories by fsync
            raise


def write_file(name: str, directory: int, pieces: Iterable[bytes]) -> None:
    """Create a file, mode 0600; it is durable when this returns."""
    with opened(os.open(name, _WRITE, 0o600, dir_fd=directory)) as fd:
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            while rest:
                rest = rest[os.write(fd, rest[:CHUNK]) :]
        os.fsync(fd)


def read_file(name: str, directory: int) -> bytes:
    """Contents of a regular file, read once, so that the bytes checked are the bytes used."""
    with opened(os.open(name, _READ, dir_fd=directory)) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        chunks = []
        while chunk := os.read(fd, CHUNK):
            chunks.append(chunk)
    return b"".join(chunks)
