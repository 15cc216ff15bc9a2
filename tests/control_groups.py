"""Real control groups for tests, where this process may make them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncopt import _limits


@contextlib.contextmanager
def control_group(controller: str, **limits: int) -> Iterator[Path]:
    """A new group below this process's own; a process joins by writing 0 to its cgroup.procs.

    Args:
        controller: "cpu" or "memory".
        limits: by the file's name in version 1, with ``_`` for the dot.

    Skips the test where the system does not let this process make one.
    """
    own = next((g for g in _limits._groups(controller, Path("/")) if g.is_dir()), None)
    if own is None:
        pytest.skip("no control groups are mounted here")
    group = own / "asyncopt-test"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group here: {error}")
    try:
        try:
            for name, value in limits.items():
                (group / name.replace("_", ".", 1)).write_text(str(value))
        except OSError as error:
            pytest.skip(f"{own} does not delegate the {controller} controller (v1): {error}")
        yield group
    finally:
        group.rmdir()
