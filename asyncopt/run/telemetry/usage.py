"""CPU time of processes, threads and cores from /proc, in ticks of 10 ms."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["core_seconds", "process_seconds", "thread_seconds"]

_TICKS = os.sysconf("SC_CLK_TCK")


def process_seconds(process: int) -> float | None:
    """CPU seconds used by all threads of a process; None if there is no such process."""
    return _ran(f"/proc/{process}/stat")


def thread_seconds(thread: int) -> float | None:
    """The same for one thread of this process, by its native id."""
    return _ran(f"/proc/self/task/{thread}/stat")


def core_seconds(cores: Iterable[int]) -> dict[int, float]:
    """Seconds for which each core was not idle since boot; cores that the kernel hides are omitted.

    Field order: proc_stat(5). Time stolen by the hypervisor counts as busy.
    """
    names = {f"cpu{core}": core for core in cores}
    found = {}
    try:
        with open("/proc/stat") as stat:
            for line in stat:
                name, *fields = line.split()
                if name in names:
                    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                    found[names[name]] = (user + nice + system + irq + softirq + steal) / _TICKS
    except OSError:
        return {}
    return found


def _ran(path: str) -> float | None:
    try:
        with open(path) as stat:
            text = stat.read()
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends between open and read
        return None
    fields = text.rpartition(")")[2].split()  # a program's name may contain spaces and parentheses
    return (int(fields[11]) + int(fields[12])) / _TICKS
