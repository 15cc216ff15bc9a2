"""Settings of loops over batches: recorded by a run, and compared when it is resumed.

A position in a loop is the number of a batch. It refers to the same examples only under the same
settings, so a resumed loop must have the settings that it was begun with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from asyncopt import _core
from asyncopt.errors import CheckpointError

__all__ = ["KEPT", "begun", "check_loop", "reached", "settings_of", "took_nothing"]

KEPT = 64  # number of loops whose settings are kept: as many as a board has open
ROWS = 16  # examples in a sample
WIDTH = 4096  # values of an example that are read
TOLERANCE = 1e-3  # relative: preprocessing may round differently in another process

Settings = dict[str, Any]


def settings_of(
    data: Any, cut: Settings, *, epochs: int, seed: int, dispatch: str, workers: int
) -> Settings:
    """Settings that determine the examples of batch i of a loop, as plain data.

    Args:
        data: as given to ``Worker.batches``.
        cut: how a source is cut into batches, ``description()`` of the loop's batches.
        epochs: passes over the data.
        seed: of the order of the examples.
        dispatch: how batches are assigned to workers.
        workers: number of workers.
    """
    settings = {**cut, "source": _kind(data)}
    if settings.get("order") != "sequential":
        settings["seed"] = seed
    settings |= {"dispatch": dispatch, "workers": workers, "epochs": epochs}
    return settings | {"sample": _sample(data)}


def _kind(data: Any) -> str:
    while isinstance(data, DataLoader):
        data = data.dataset
    return "ndarray" if isinstance(data, np.ndarray) else type(data).__name__


def _sample(data: Any) -> list[list[float | None]]:
    """Sums of some examples and of their absolute values, for each tensor or array in ``data``.

    Datasets that compute their examples are not sampled: that may take long or draw random numbers.
    """
    if isinstance(data, DataLoader):
        return _sample(data.dataset)
    if isinstance(data, Subset):
        return [*_sample(np.asarray(data.indices)), *_sample(data.dataset)]
    if isinstance(data, TensorDataset):
        return _sample(data.tensors)
    if isinstance(data, tuple):
        return [sums for each in data for sums in _sample(each)]
    if isinstance(data, torch.Tensor):
        dense = data.layout == torch.strided and not data.is_nested
        return [_sums(data.shape[0], lambda i: data[i].detach())] if dense and data.ndim else []
    if isinstance(data, np.ndarray):
        return [_sums(len(data), lambda i: torch.as_tensor(np.array(data[i])))] if data.ndim else []
    return []


def _sums(examples: int, pick: Callable[[int], torch.Tensor]) -> list[float | None]:
    numbers = []
    for i in np.unique(np.linspace(0, examples - 1, min(ROWS, examples)).astype(np.int64)):
        row = pick(int(i)).reshape(-1)[:WIDTH]
        row = (torch.view_as_real(row) if row.is_complex() else row).double()
        numbers += [float(row.sum()), float(row.abs().sum())]
    return [number if math.isfinite(number) else None for number in numbers]


def _same_sample(then: Sequence[Any], now: Sequence[Any]) -> bool:
    if [len(each) for each in then] != [len(each) for each in now]:
        return False
    return all(
        all(_close(*four) for four in zip(a[::2], b[::2], a[1::2], b[1::2], strict=True))
        for a, b in zip(then, now, strict=True)
    )


def _close(one: Any, other: Any, size: Any, other_size: Any) -> bool:
    if None in (one, other, size, other_size):
        return (one, size) == (other, other_size) or None in (size, other_size)
    far = float(max(abs(one - other), abs(size - other_size)))
    return far <= TOLERANCE * float(max(size, other_size))


def check_loop(
    number: int,
    then: Settings,
    now: Settings,
    reached: Callable[[], int],
    total: Callable[[], int],
) -> None:
    """Raise unless a loop begun with the settings ``then`` can continue with ``now``.

    The number of epochs may grow; it may shrink unless more epochs were already begun.

    Args:
        number: of the loop, from 0.
        then: result of :func:`settings_of` when the loop was begun.
        now: result of :func:`settings_of` now.
        reached: counts the batches that have been begun.
        total: counts the batches of the loop now.

    Raises:
        CheckpointError: batch i would have other examples than before.
    """
    where = f"worker.batches, loop {number}"
    for name in sorted((then.keys() | now.keys()) - {"epochs", "sample", "first_order"}):
        if then.get(name) != now.get(name):
            raise CheckpointError(
                f"{where}: {name}: expected {then.get(name)!r}, with which the loop was begun, got "
                f"{now.get(name)!r}; {_REMEDY}"
            )
    if not _same_sample(then["sample"], now["sample"]):
        raise CheckpointError(
            f"{where}: data: expected the {now.get('examples')} examples with which the loop was "
            f"begun, got as many others; give each data set, such as a fold, a directory of its "
            f"own, or {_REMEDY}"
        )
    if then["epochs"] and now["epochs"] and then.get("first_order") != now.get("first_order"):
        raise CheckpointError(
            f"{where}: order: expected the first order that {now['order']} drew when the loop was "
            f"begun, of digest {then.get('first_order')}, got one of {now.get('first_order')}; "
            f"give generators and weights the values that they had, or {_REMEDY}"
        )
    if now["epochs"] < then["epochs"] and (taken := reached()) > (end := total()):
        least = math.ceil(taken * now["epochs"] / end) if end else then["epochs"]
        raise CheckpointError(
            f"{where}: epochs: expected at least {least} of {then['epochs']}, which are begun, got "
            f"{now['epochs']}; {_REMEDY}"
        )


_REMEDY = (
    "to train these weights anew, restore the checkpoint with asyncopt.resume(path).restore(args) "
    "and launch with checkpoint= in another directory"
)


def begun(positions: _core.Positions) -> set[int]:
    """The loops from which a worker has taken a batch."""
    dealt = {loop for loop, _ in positions["rounds"]}
    return dealt.union(loop for _, loop, _, _ in positions["claims"])


def reached(positions: _core.Positions, number: int) -> int:
    """Number of batches of a loop that were begun: one more than the highest index."""
    found = [following for loop, following in positions["rounds"] if loop == number]
    found += [index + 1 for _, loop, _, index in positions["claims"] if loop == number]
    return max(found, default=0)


def took_nothing(then: _core.Positions, now: _core.Positions) -> bool:
    """True if a run that had begun batches gave no worker a batch between ``then`` and ``now``."""
    if not then["claims"] or any(state == "held" for _, _, state, _ in then["claims"]):
        return False
    return _places(then) == _places(now) and sorted(then["rounds"]) == sorted(now["rounds"])


def _places(positions: _core.Positions) -> Iterable[tuple[int, int, int]]:
    return {(rank, loop, index) for rank, loop, _, index in positions["claims"]}
