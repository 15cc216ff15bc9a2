"""Possible contents of a disk after a power failure: a model of a journalling file system.

The changes of one directory reach the disk in their order, at the latest when that directory is
synced; so does a file's data when the file is synced, and any prefix of it before. There is no
order between two directories, nor between a file's data and its name.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_open, _close = os.open, os.close  # which are not recorded

State = dict[int, "dict[str, int] | bytes"]  # inode -> a directory's entries or a file's bytes


@dataclass
class Recorder:
    """The states of a directory tree after each call, and the calls that synced it.

    Args:
        root: the tree's top; it and what lies in it count as synced at the beginning.
    """

    root: Path
    states: list[State] = field(default_factory=list)
    synced: list[dict[int, int]] = field(default_factory=list)
    _held: dict[int, int] = field(default_factory=dict)  # so that no inode is used twice

    def __post_init__(self) -> None:
        self._look({})
        self.synced[0] = dict.fromkeys(self.states[0], 0)

    def __call__(
        self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Replacement of each function of `os`: calls it and records the state."""
        result = None if name == "fsync" else original(*args, **kwargs)  # it is only noted
        if name in ("open", "mkdir", "write", "rename", "unlink", "rmdir", "fsync"):
            synced = dict(self.synced[-1])
            if name == "fsync":
                synced[os.fstat(args[0]).st_ino] = len(self.states)
            self._look(synced)
        return result

    def close(self) -> None:
        for fd in self._held.values():
            _close(fd)

    def _look(self, synced: dict[int, int]) -> None:
        state: State = {}
        todo = [self.root]
        while todo:
            path = todo.pop()
            inode = self._hold(path)
            entries: dict[str, int] = {}
            for entry in os.listdir(path):
                inner = path / entry
                entries[entry] = self._hold(inner)
                if stat.S_ISDIR(os.lstat(inner).st_mode):
                    todo.append(inner)
                else:
                    state[entries[entry]] = inner.read_bytes()
            state[inode] = entries
        self.states.append(state)
        self.synced.append(synced)

    def _hold(self, path: Path) -> int:
        inode = os.lstat(path).st_ino
        if inode not in self._held:
            self._held[inode] = _open(path, os.O_PATH | os.O_NOFOLLOW)
        return inode

    def after_failure(self, at: int, to: Path, chance: random.Random) -> None:
        """Build in `to` a possible tree after a power failure that follows the `at`-th call."""
        self._rebuild(os.lstat(self.root).st_ino, at, to, chance)

    def _rebuild(self, inode: int, at: int, to: Path, chance: random.Random) -> None:
        durable = self.synced[at].get(inode)
        known = [k for k in range(at + 1) if inode in self.states[k]]
        since = [k for k in known if durable is None or k >= durable] or known[-1:]
        what = self.states[chance.choice(since)][inode]
        if isinstance(what, dict):
            to.mkdir(exist_ok=True)
            for name, inner in what.items():
                self._rebuild(inner, at, to / name, chance)
        elif durable is None:
            to.write_bytes(what[: chance.randint(0, len(what))])
        else:
            to.write_bytes(what)
