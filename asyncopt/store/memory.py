"""Memory that processes share: allocated whole, sealed, reached by descriptor alone."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib

import torch

from asyncopt.errors import SegmentError

__all__ = ["cannot_allocate", "map_new_memfd"]

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def map_new_memfd(nbytes: int) -> torch.Tensor:
    """Map a new, allocated, sealed memfd that only its owner can open (mode 0600).

    Args:
        nbytes: its size.

    Returns:
        uint8 tensor of `nbytes` zeros. Pickling it to a process that is being spawned sends the
        descriptor.

    Raises:
        SegmentError: the memory cannot be had; the message says how much was asked for.
    """
    try:
        _check_available(nbytes)
        fd = os.memfd_create("asyncopt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # torch maps a duplicate of the descriptor and owns it: its own machinery for sharing
            # tensors between processes then works on the segment as it is.
            storage = torch.UntypedStorage._new_shared_fd_cpu(  # type: ignore[attr-defined]
                fd, nbytes
            )
        finally:
            os.close(fd)
    except (OSError, RuntimeError) as error:
        raise cannot_allocate(nbytes, str(error)) from error
    # The duplicate is not for programs that this process starts.
    os.set_inheritable(storage._share_fd_cpu_()[0], False)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def cannot_allocate(nbytes: int, reason: str) -> SegmentError:
    """The error to raise when `nbytes` bytes of shared memory cannot be had."""
    return SegmentError(
        f"shared memory: cannot allocate {nbytes:,} bytes: {reason}; use fewer workers, a sync "
        "with fewer copies, or free memory"
    )


def _check_available(nbytes: int) -> None:
    # The kernel would grant a memfd more than there is and then end processes to make room.
    available = _available_memory()
    if nbytes > available:
        raise OSError(errno.ENOMEM, f"only {available:,} bytes are available")


def _available_memory() -> int:
    """Bytes that can be had without swapping: the machine's, or its control group's if less."""
    with open("/proc/meminfo") as meminfo:
        fields = dict(line.split(":", 1) for line in meminfo)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit ("max"), or no control groups
        return available
    return min(available, max(0, limit - used))
