"""A private /dev/shm, where the system allows it: without other programs' files."""

from __future__ import annotations

import ctypes
import os

__all__ = ["mount_private_shm"]

CLONE_NEWNS = 0x00020000  # sched.h
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18  # sys/mount.h


def mount_private_shm() -> str | None:
    """Move this thread, and what it will start, to a mount namespace with a new tmpfs there.

    Threads that were started before (of OpenBLAS, say) stay where they are; they open no files.

    Returns:
        The reason why it failed (it needs CAP_SYS_ADMIN); None on success.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    # The new namespace's mounts must not show in the old one, nor the old one's here.
    if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        return f"mount --make-rprivate /: {os.strerror(ctypes.get_errno())}"
    if libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=1777") != 0:
        return f"mount /dev/shm: {os.strerror(ctypes.get_errno())}"
    return None
