"""Access attempts by another user of the machine."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

import pytest

SOMEBODY = 65534
PR_SET_DUMPABLE = 4
LIBC = ctypes.CDLL(None)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_somebody(attempts: Sequence[Callable[[], object]]) -> list[str]:
    """The outcome of each attempt by another user: "done", or the name of the error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
        os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
        LIBC.prctl(PR_SET_DUMPABLE, 1)  # otherwise even its own /proc would be closed to it
        ends = []
        for attempt in attempts:
            try:
                attempt()
                ends.append("done")
            except OSError as error:
                ends.append(errno.errorcode[error.errno or 0])
        os.write(writer, " ".join(ends).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        ends = answer.read().split()
    os.waitpid(child, 0)
    return ends
