"""Limits of containers, read from made-up machines of every kind, and from real control groups."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from asyncopt import _limits
from asyncopt.run.plan import Plan
from asyncopt.sparse.data.svmlight import Format
from asyncopt.studies.options import usable_cores
from asyncopt.tasks.map import make_plan

from .control_groups import control_group

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
UNIFIED = "40 24 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
CPU = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 master:1 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "32 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
NO_LIMIT = "9223372036854771712"


def machine(root: Path, cgroup: str, mounts: list[str], files: Mapping[str, str]) -> Path:
    """A machine whose control groups, below /sys/fs/cgroup, hold ``files``; 1,000 kB are free."""
    own = {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": "\n".join(["24 1 0:22 / /sys rw - sysfs sysfs rw", *mounts]),
        "proc/meminfo": "MemTotal:  9000 kB\nMemAvailable:  1000 kB\nHugePages_Total:  0\n",
    }
    for name, text in (own | {f"sys/fs/cgroup/{name}": files[name] for name in files}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V1 = "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/y"
QUOTAS: dict[str, tuple[str, list[str], dict[str, str], float | None]] = {
    "v2": ("0::/a", [V2], {"a/cpu.max": "150000 100000"}, 1.5),
    "v2 of the group's parent": (
        "0::/a/b",
        [V2],
        {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"},
        0.5,
    ),
    "v2, the least of a nest": (
        "0::/a/b/c",
        [V2],
        {"a/cpu.max": "300000 100000", "a/b/cpu.max": "20000 10000", "a/b/c/cpu.max": "9 1"},
        2.0,
    ),
    "v2 without a limit": ("0::/a", [V2], {"a/cpu.max": "max 100000"}, None),
    "v2 of another group": ("0::/a", [V2], {"b/cpu.max": "50000 100000"}, None),
    "v2 in a container with a view of its own": (
        "0::/docker/1/x",
        [V2.replace(" / /sys", " /docker/1 /sys")],
        {"x/cpu.max": "70000 100000"},
        0.7,
    ),
    "v1": (
        V1,
        [CPU, MEMORY],
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
        },
        1.5,
    ),
    "v1 of the group's parent": (
        V1.replace("/x", "/p/x"),
        [CPU],
        {
            "cpu,cpuacct/p/x/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/p/x/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/p/cpu.cfs_quota_us": "200000",
            "cpu,cpuacct/p/cpu.cfs_period_us": "50000",
        },
        4.0,
    ),
    "v1 in a container that sees its own group as the root": (
        V1,
        [CPU],
        {"cpu,cpuacct/cpu.cfs_quota_us": "80000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        0.8,
    ),
    "hybrid, v1 has the controller": (
        V1 + "\n0::/u",
        [UNIFIED, CPU],
        {
            "cpu,cpuacct/x/cpu.cfs_quota_us": "25000",
            "cpu,cpuacct/x/cpu.cfs_period_us": "100000",
            "unified/u/cpu.stat": "usage_usec 1",
        },
        0.25,
    ),
    "hybrid, v2 has the controller": (
        "4:memory:/x\n0::/u",
        [UNIFIED, MEMORY],
        {"unified/u/cpu.max": "50000 100000"},
        0.5,
    ),
    "mounted elsewhere, with a space": (
        "0::/a",
        [V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/of\\040us")],
        {"of us/a/cpu.max": "60000 100000"},
        0.6,
    ),
    "only a period": (V1, [CPU], {"cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, None),
    "not numbers": ("0::/a", [V2], {"a/cpu.max": "much 100000"}, None),
    "empty": ("0::/a", [V2], {"a/cpu.max": ""}, None),
    "no groups": ("", [], {}, None),
}


@pytest.mark.parametrize("kind", QUOTAS)
def test_cpu_quotas(kind: str, tmp_path: Path) -> None:
    cgroup, mounts, files, quota = QUOTAS[kind]
    assert _limits.cpu_quota(machine(tmp_path, cgroup, mounts, files)) == quota


@pytest.mark.parametrize(
    ("quota", "allowed", "usable"),
    [(150, 8, 1), (199, 8, 1), (200, 8, 2), (1, 8, 1), (900, 8, 8), (900, 3, 3), (250, 3, 2)],
)
def test_quotas_are_rounded_down(
    quota: int, allowed: int, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But to 1 at least, and never above the CPUs that the process may run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    root = machine(tmp_path, "0::/", [V2], {"cpu.max": f"{quota} 100"})
    assert _limits.usable_cpus(root) == usable
    assert _limits.allowed_cpus() == tuple(range(allowed))
    assert _limits.usable_cpus(tmp_path / "nothing") == allowed


MEMORIES: dict[str, tuple[str, list[str], dict[str, str], tuple[int, str, int | None]]] = {
    "v2, cache that can be dropped is free": (
        "0::/a",
        [V2],
        {
            "a/memory.max": "500000",
            "a/memory.current": "400000",
            "a/memory.stat": "anon 1\nfile 350000\nactive_file 50000\ninactive_file 300000",
        },
        (400_000, "/sys/fs/cgroup/a", 500_000),
    ),
    "v2, the fullest of a nest": (
        "0::/a/b",
        [V2],
        {
            "a/memory.max": "600000",
            "a/memory.current": "590000",
            "a/b/memory.max": "500000",
            "a/b/memory.current": "100000",
        },
        (10_000, "/sys/fs/cgroup/a", 500_000),
    ),
    "v2, above its limit": (
        "0::/a",
        [V2],
        {"a/memory.max": "5", "a/memory.current": "9"},
        (0, "/sys/fs/cgroup/a", 5),
    ),
    "v2 without a limit": (
        "0::/a",
        [V2],
        {"a/memory.max": "max", "a/memory.current": "9"},
        (1_024_000, "", None),
    ),
    "v2, more than the machine has": (
        "0::/a",
        [V2],
        {"a/memory.max": "5000000", "a/memory.current": "9"},
        (1_024_000, "", 5_000_000),
    ),
    "v1": (
        V1,
        [CPU, MEMORY],
        {
            "memory/x/memory.limit_in_bytes": "700000",
            "memory/x/memory.usage_in_bytes": "300000",
            "memory/x/memory.stat": "inactive_file 7\ntotal_inactive_file 100000",
            "memory/memory.limit_in_bytes": NO_LIMIT,
        },
        (500_000, "/sys/fs/cgroup/memory/x", 700_000),
    ),
    "v1 without a limit": (
        V1,
        [MEMORY],
        {"memory/x/memory.limit_in_bytes": NO_LIMIT, "memory/x/memory.usage_in_bytes": "3"},
        (1_024_000, "", None),
    ),
    "hybrid": (
        V1 + "\n0::/u",
        [UNIFIED, MEMORY],
        {"memory/memory.limit_in_bytes": "900000", "unified/u/cgroup.procs": "1"},
        (900_000, "/sys/fs/cgroup/memory", 900_000),
    ),
    "no groups": ("", [], {}, (1_024_000, "", None)),
}


@pytest.mark.parametrize("kind", MEMORIES)
def test_memory_limits(kind: str, tmp_path: Path) -> None:
    cgroup, mounts, files, (available, group, limit) = MEMORIES[kind]
    root = machine(tmp_path, cgroup, mounts, files)
    found = _limits.available_memory(root)
    assert found is not None
    assert found.nbytes == available
    assert f"{tmp_path}{group}," in found.where if group else "on this machine" in found.where
    assert _limits.group_memory_limit(root) == limit


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    assert _limits.available_memory(tmp_path) is None
    assert _limits.group_memory_limit(tmp_path) is None
    assert _limits.cpu_quota(tmp_path) is None
    assert _limits.meminfo(tmp_path) == {}


def test_address_space_and_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 1 << 20, resource.RLIMIT_NOFILE: 64}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], -1))
    root = machine(tmp_path, "", [], {})
    (root / "proc/self/statm").write_text(f"{(1 << 20) // os.sysconf('SC_PAGE_SIZE') - 2} 1 1\n")
    found = _limits.available_memory(root)
    assert found is not None
    assert found.nbytes == 2 * os.sysconf("SC_PAGE_SIZE")
    assert "RLIMIT_AS" in found.where
    assert _limits.descriptor_limit() == 64
    limits[resource.RLIMIT_NOFILE] = resource.RLIM_INFINITY
    assert _limits.descriptor_limit() is None


def test_defaults_keep_to_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 CPUs, 4.5 CPUs' worth of time: threads, pools and the command line take 4."""
    root = machine(tmp_path, "0::/a", [V2], {"a/cpu.max": "450000 100000"})
    groups = _limits._groups
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: None)
    monkeypatch.setattr(_limits, "_groups", lambda controller, _: groups(controller, root))
    assert Plan.check(workers=2).threads == 2
    assert Plan.check(workers=1).threads == 4
    assert Plan.check(workers=8).threads == 1
    assert Plan.check(workers=2).allowed == tuple(range(6))
    pool = make_plan(None, 2, None, None, 1.0, 0)
    assert (pool.workers, pool.pin) == (2, False)
    assert make_plan(None, 1, None, None, 1.0, 0).workers == 4
    assert make_plan(6, 1, None, None, 1.0, 0).pin
    assert Format("float32", "auto", query_id=False, n_threads=None).threads == 4
    assert usable_cores() == 4


PROGRAM = """
import os, resource, sys
from pathlib import Path
for group in sys.argv[1:]:
    Path(group, "cgroup.procs").write_text("0")
import torch
import asyncopt
from asyncopt import _limits
from asyncopt.run.plan import Plan
"""

SHARE = """
if not sys.argv[1:]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)
optimizer = asyncopt.SGD([torch.nn.Parameter(torch.ones(4 << 20))], sync="leashed")
fits = asyncopt.SGD([torch.nn.Parameter(torch.ones(1 << 20))], sync="leashed")
try:
    optimizer.share_memory(workers=64)
except asyncopt.SegmentError as error:
    print(error)
assert optimizer.store is None
fits.share_memory(workers=2)
"""


def call(program: str, *groups: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program, *map(str, groups)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.strip()


def test_a_store_above_the_limit_of_a_control_group_is_refused() -> None:
    """The error comes first: the kernel would kill a process of a group without memory."""
    with control_group("memory", memory_limit_in_bytes=768 << 20) as group:
        said = call(SHARE, group)
    assert "cannot allocate 1," in said or "cannot allocate 2," in said
    assert f"bytes are available in the control group {group}, whose limit is 805,306,368" in said


def test_a_store_above_the_address_space_is_refused() -> None:
    said = call(SHARE)
    assert "bytes are available under RLIMIT_AS (ulimit -v), " in said


def test_threads_keep_to_the_quota_of_a_control_group() -> None:
    program = "print(_limits.cpu_quota(), Plan.check(workers=1).threads)"
    with control_group("cpu", cpu_cfs_quota_us=150_000) as group:
        assert call(program, group) == "1.5 1"
