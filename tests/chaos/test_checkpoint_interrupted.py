"""Checkpoint writes interrupted at any point: the old or the new checkpoint loads.

``ASYNCOPT_CHAOS=long`` goes through all of it many times more.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint import resume
from tests.chaos.dying_writer import all_whole, fill, is_whole, names, write
from tests.chaos.faults import At, fails, replaced
from tests.chaos.power_failure import Recorder
from tests.chaos.scene import often

ROOT = Path(__file__).parents[2]
WRITER = Path(__file__).with_name("dying_writer.py")
SEED = int(os.environ.get("ASYNCOPT_CHAOS_SEED", "20"))


def outcomes(*command: str | Path) -> dict[str, int]:
    """Runs the writers; what was found after each of them."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=often(120, 3600),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert "neither" not in report["found"]
    found: dict[str, int] = report["found"]
    return found


@pytest.mark.slow
def test_killed_at_every_call(tmp_path: Path) -> None:
    """10,000 deaths in the long run."""
    found = outcomes(sys.executable, WRITER, "killed", tmp_path, str(often(1, 75)))
    assert found["old"] > 40
    assert found["new"] > 20
    assert sum(found.values()) > often(100, 9000)


def test_no_room_for_a_file_of_any_size(tmp_path: Path) -> None:
    found = outcomes(sys.executable, WRITER, "limited", tmp_path, str(often(1, 20)))
    assert found["old"] > 3
    assert found["new"] > 0


def test_a_full_file_system(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*alone, mount], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file systems can be mounted here: {error}")
    found = outcomes(*alone, f"{mount} && exec {sys.executable} {WRITER} full {tmp_path} 1")
    assert found == {"old": 1}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_error_at_every_call(tmp_path: Path, number: int) -> None:
    """The old or the new one is whole; the error is raised, and the next write works."""
    found: Counter[str] = Counter()
    k = 0
    while True:
        path = tmp_path / str(k)
        fill(path, 2, keep=2)
        before = sorted(os.listdir("/proc/self/fd"))
        fault = At(k, fails(number))
        told = ""
        with warnings.catch_warnings(record=True, action="always") as warned:
            try:
                with replaced(fault):
                    write(path, 3, keep=2)
            except CheckpointError as error:
                told = str(error)
        if not fault.name:
            break
        told += "".join(map(str, warned))
        if fault.name in ("write", "fsync", "rename"):
            assert not any(name.startswith(".partial") for name in names(path))
        assert sorted(os.listdir("/proc/self/fd")) == before, fault.name
        newest = resume(path)
        assert newest is not None
        assert is_whole(newest, 2) or is_whole(newest, 3), (k, fault.name, newest)
        assert is_whole(newest, 3) or os.strerror(number) in told, (k, fault.name)
        found["new" if is_whole(newest, 3) else "old"] += 1
        write(path, 4, keep=2)
        assert is_whole(resume(path), 4)
        assert names(path)[-1].startswith("checkpoint-")
        assert len(names(path)) == 2, (k, fault.name, names(path))
        k += 1
    assert found["old"] > 10
    assert found["new"] > 3


def test_short_writes(tmp_path: Path) -> None:
    def short(
        name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return original(args[0], args[1][:7]) if name == "write" else original(*args, **kwargs)

    with replaced(short):
        write(tmp_path, 1, keep=1)
    assert is_whole(resume(tmp_path), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "keep"), [(1, 1), (2, 2), (3, 1), (1, 3)])
def test_power_failure_after_every_call(tmp_path: Path, before: int, keep: int) -> None:
    """Changes that were not synced may or may not be on the disk."""
    path, found = tmp_path / "run", Counter[str]()
    fill(path, before, keep=3)
    recorder = Recorder(path)
    with replaced(recorder):
        write(path, before + 1, keep)
    recorder.close()
    chance = random.Random(SEED)
    for at in range(len(recorder.states)):
        for turn in range(often(16, 200)):
            disk = tmp_path / f"disk-{at}-{turn}"
            recorder.after_failure(at, disk, chance)
            newest = resume(disk)
            old, new = is_whole(newest, before), is_whole(newest, before + 1)
            assert old or new, (at, turn, newest, names(disk))
            assert all_whole(disk)
            assert new or at < len(recorder.states) - 1, "it was said to be written"
            found["new" if new else "old"] += 1
            shutil.rmtree(disk)
    assert found["old"] > 50
    assert found["new"] > 10
