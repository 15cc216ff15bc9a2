"""Memory mappings of this process, as the kernel lists them."""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["FileMapping", "Mappings"]

# 7f00-7f08 r--s 00001000 fe:00 1234      /path, of a file that was replaced too: /path (deleted)
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ...([ps]) \S+ \S+ (\d+) *(.*)")
_DELETED = " (deleted)"


@dataclass(frozen=True)
class FileMapping:
    """A range of addresses that maps a part of a file.

    Attributes:
        start: address of its first byte.
        end: address after its last byte.
        is_shared: True if writes go to the file; False if they stay in this process.
        path: path of the file; None if the file has been deleted or replaced since.
        private: bytes of private pages that this process has written; 0 if unknown.
    """

    start: int
    end: int
    is_shared: bool
    path: str | None
    private: int = 0


class Mappings:
    """File mappings of this process, read at the first use."""

    def at(self, address: int) -> FileMapping | None:
        """The mapping that covers an address; None if no file is mapped there."""
        found = bisect_right(self._maps, address, key=lambda each: each.start) - 1
        return self._maps[found] if found >= 0 and address < self._maps[found].end else None

    def is_written(self, first: int, last: int) -> bool:
        """True if this process has written to private pages from ``first`` to ``last``."""
        return any(
            each.private > 0 and each.start <= last and first < each.end for each in self._use
        )

    @functools.cached_property
    def _maps(self) -> list[FileMapping]:
        return list(_read("maps"))

    @functools.cached_property
    def _use(self) -> list[FileMapping]:
        return list(_read("smaps"))


def _read(table: str) -> Iterator[FileMapping]:
    """The mappings of files in ``/proc/self/maps``, or with their use in ``/proc/self/smaps``."""
    found: FileMapping | None = None
    for line in Path("/proc/self", table).read_text(errors="surrogateescape").splitlines():
        if (head := _HEAD.fullmatch(line)) is not None:
            if found is not None:
                yield found
            found = _file_mapping(*head.groups())
        elif found is not None and line.startswith(("Anonymous:", "Swap:")):
            found = replace(found, private=found.private + 1024 * int(line.split()[1]))
    if found is not None:
        yield found


def _file_mapping(start: str, end: str, sharing: str, inode: str, path: str) -> FileMapping | None:
    """Parse a line of ``/proc/self/maps``; None for memory without a file."""
    if inode == "0":
        return None
    path = path.replace("\\012", "\n")
    return FileMapping(
        int(start, 16),
        int(end, 16),
        sharing == "s",
        None if path.endswith(_DELETED) else path,
    )
