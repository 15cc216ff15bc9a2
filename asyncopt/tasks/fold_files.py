"""Finished folds on disk, from which a repeated call resumes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint.codec import decode, encode
from asyncopt.run.checkpoint.directory import Directory
from asyncopt.run.checkpoint.format import MANIFEST, TENSORS, describe, pack, parse, unpack
from asyncopt.tasks.training import Epoch, Fold
from asyncopt.warn import warn_caller

__all__ = ["FoldFiles"]


class FoldFiles:
    """A directory with one checkpoint per finished fold: a JSON file and a safetensors file.

    Each is written atomically, has a checksum, and records the call that it belongs to.

    Args:
        path: the directory; created if it is missing, and locked against other calls until it is
            closed.
        study: everything that distinguishes this call from others, by name; plain JSON.

    Raises:
        CheckpointError: the directory cannot be used.
    """

    def __init__(self, path: Path, study: dict[str, Any]) -> None:
        self._directory = Directory(path, write=True)
        self._study = study

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.close()

    def load(self) -> dict[int, Fold]:
        """Finished folds by number; damaged ones are left out with a warning.

        Raises:
            ValueError: the directory holds folds of another call.
        """
        found = {}
        for where, contents in _read(self._directory):
            others = [
                name for name, mine in self._study.items() if contents["study"].get(name) != mine
            ]
            if others:
                raise ValueError(
                    f"directory: expected folds of the same call, got those of one with other "
                    f"{', '.join(others)} in {str(where)!r}; name another directory"
                )
            fold = contents["fold"]
            fold["epochs"] = tuple(Epoch(*epoch) for epoch in fold["epochs"])
            found[fold["number"]] = Fold(**fold | {"begin": math.nan})
        return found

    def save(self, fold: Fold, state: dict[str, Tensor]) -> None:
        """Add a finished fold and its model, durably.

        Raises:
            CheckpointError: it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        record = {
            "fold": asdict(replace(fold, begin=0.0)),
            "study": self._study,
            "state": dict(state),
        }
        contents = encode(record, "model", tensors)
        packed = pack(tensors)
        files = {MANIFEST: [describe({"contents": contents}, packed)], TENSORS: [packed]}
        self._directory.write(files, keep=sys.maxsize)

    @staticmethod
    def state(path: Path, fold: int) -> dict[str, Tensor]:
        """The model of a fold.

        Raises:
            CheckpointError: it is not there, or damaged.
        """
        with Directory(path, write=False) as directory:
            for _, contents in _read(directory):
                if contents["fold"]["number"] == fold:
                    state: dict[str, Tensor] = contents["state"]
                    return state
        raise CheckpointError(f"directory: expected fold {fold} in {str(path)!r}, found none")


def _read(directory: Directory) -> Iterator[tuple[Path, dict[str, Any]]]:
    for number in directory.numbers():
        where = directory.path_of(number)
        try:
            head, packed = directory.read(number, (MANIFEST, TENSORS))
            manifest = parse(head)
            yield where, decode(manifest["contents"], unpack(manifest, packed))
        except (CheckpointError, OSError, json.JSONDecodeError) as error:
            warn_caller(
                f"directory: {str(where)!r} cannot be read, and its fold is trained again: {error}"
            )
