"""Limits of this process: CPUs, memory and descriptors.

No other module reads them. Containers are limited by control groups (cgroups) of version 1,
version 2 or both at once (hybrid). The limit of any group from the process's own up to the root
applies. Files that are missing or unreadable limit nothing.

Every function that reads files takes ``root``, the directory under which /proc and the mounted
control groups are found, so that tests can present another machine.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Memory",
    "allowed_cpus",
    "available_memory",
    "cpu_quota",
    "descriptor_limit",
    "group_memory_limit",
    "meminfo",
    "usable_cpus",
]

ROOT = Path("/")
UNLIMITED = 1 << 60  # bytes; version 1 writes "no limit" as a number near 2**63


def allowed_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs that this process may run on (affinity, cpusets), ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPU time that the control groups grant, in CPUs; None: no limit.

    0.5 is half of one CPU. When a group has used up its quota, the kernel stops all its threads
    until the period (100 ms by default) ends.
    """
    quotas = []
    for group in _groups("cpu", root):
        quota, period = _numbers(group / "cpu.max", 2) or (
            *(_numbers(group / "cpu.cfs_quota_us", 1) or (-1,)),
            *(_numbers(group / "cpu.cfs_period_us", 1) or (0,)),
        )
        if quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def usable_cpus(root: Path = ROOT) -> int:
    """Number of threads that can run at once all the time, at least 1.

    The number of allowed CPUs, or the quota rounded down if that is less. If more threads run than
    the quota allows, the kernel stops all of them for a part of every period, including those that
    hold a lock.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


class Memory(NamedTuple):
    """Memory that can be allocated now.

    Attributes:
        nbytes: number of bytes that the tightest limit leaves.
        where: the tightest limit, as the end of a sentence: "on this machine".
    """

    nbytes: int
    where: str


def available_memory(root: Path = ROOT) -> Memory | None:
    """Memory that this process can allocate without swapping; None: unknown.

    The minimum of what the machine has (MemAvailable), what each control group leaves (its limit
    minus its use), and what RLIMIT_AS leaves of the address space. File cache that the kernel would
    drop (``inactive_file``) does not count as use.
    """
    found = []
    if (machine := meminfo(root).get("MemAvailable")) is not None:
        found.append(Memory(machine, "on this machine"))
    for group in _groups("memory", root):
        if (limit := _group_limit(group)) is not None:
            where = f"in the control group {group}, whose limit is {limit:,} bytes"
            found.append(Memory(max(0, limit - _group_use(group)), where))
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY:
        pages = _numbers(root / "proc/self/statm", 1) or (0,)
        left = max(0, space - pages[0] * os.sysconf("SC_PAGE_SIZE"))
        found.append(Memory(left, f"under RLIMIT_AS (ulimit -v), {space:,} bytes"))
    return min(found, default=None)


def group_memory_limit(root: Path = ROOT) -> int | None:
    """Smallest memory limit of the control groups, in bytes, used or not; None: no limit."""
    limits = [_group_limit(group) for group in _groups("memory", root)]
    return min((limit for limit in limits if limit is not None), default=None)


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """Sizes in bytes of /proc/meminfo, by name; empty where there is none."""
    text = _text(root / "proc/meminfo")
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(size) * 1024 for name, size in lines}


def descriptor_limit() -> int | None:
    """Number of descriptors that this process may have open (``ulimit -n``); None: no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _group_limit(group: Path) -> int | None:
    """A group's own memory limit, not those of its ancestors."""
    limit = _numbers(group / "memory.max", 1) or _numbers(group / "memory.limit_in_bytes", 1)
    return limit[0] if limit and limit[0] < UNLIMITED else None


def _group_use(group: Path) -> int:
    """Bytes in use by a group and those below it, without file cache that can be dropped."""
    use = _numbers(group / "memory.current", 1) or _numbers(group / "memory.usage_in_bytes", 1)
    stat: dict[str, str] = dict(
        re.findall(r"^(\w+) (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    )
    # Version 1 counts the group alone in inactive_file, and with those below it in total_*.
    cache = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    return max(0, (use or (0,))[0] - int(cache))


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Directories of this process's control groups that may limit ``controller``, own group first.

    In a container only a part of the tree may be mounted. Then the root of the mount is removed
    from the front of the group's path. Readers skip directories that do not exist.
    """
    own: dict[str, str] = {}  # the path of this process's group, by controller; "" for version 2
    lines = re.findall(r"^\d+:([^:]*):(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    for controllers, path in lines:
        own |= dict.fromkeys(controllers.split(","), path)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mounted, _, mount = line.partition(" - ")
        kind, _, options = mount.split(" ", 2)
        top, point = (_unescape(field) for field in mounted.split(" ")[3:5])
        if kind == "cgroup2":
            path = own.get("", "")
        elif kind == "cgroup" and controller in options.split(","):
            path = own.get(controller, "")
        else:
            continue
        base, parts = root / point.lstrip("/"), Path(path.lstrip("/"))
        if parts.is_relative_to(top.lstrip("/")):
            parts = parts.relative_to(top.lstrip("/"))
        yield from (base / group for group in (parts, *parts.parents))


def _unescape(field: str) -> str:
    """A path of mountinfo, which writes spaces and similar characters as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _numbers(path: Path, count: int) -> tuple[int, ...] | None:
    """The file's first ``count`` words if all are numbers ("max" is none); else None."""
    words = _text(path).split()[:count]
    if len(words) < count or not all(re.fullmatch(r"-?\d+", word) for word in words):
        return None
    return tuple(map(int, words))
