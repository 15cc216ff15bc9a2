"""``docs/data.md`` covers every option, sampler and kind of data of torch."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils import data
from torch.utils.data import DataLoader, TensorDataset

from asyncopt.run import Worker

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
N = 12


def rows(heading: str) -> dict[str, str]:
    """What becomes of each thing in a section's table, where a row may name several."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    found = {}
    for names, fate, *_ in lines:
        spelled = re.findall(r"`([A-Za-z]\w*)`", names) or [names.strip("| ").split(",")[0]]
        found.update(dict.fromkeys(spelled, fate))
    return found


class Numbers(data.Dataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(index)


class Stream(data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(N))


class Backwards(data.Sampler[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(N - 1, -1, -1))


class Buckets(data.Sampler[Any]):
    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 2, 4], [1], [3, 5]])


class Endless(data.Sampler[Any]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Pair(NamedTuple):
    x: Any
    y: Any


class OwnLoop(DataLoader[Any]):
    def __iter__(self) -> Any:
        return iter([])


def loader(**options: Any) -> Callable[[Path], Any]:
    return lambda folder: DataLoader(Numbers(), **options)


def mapped(folder: Path) -> Any:
    np.save(folder / "x.npy", np.arange(N))
    return np.load(folder / "x.npy", mmap_mode="r")


#: For each row of a table, what it is about.
OPTIONS: dict[str, Callable[[Path], Any]] = {
    "dataset": loader(),
    "batch_size": loader(batch_size=None),
    "shuffle": loader(shuffle=True),
    "sampler": loader(sampler=Backwards()),
    "batch_sampler": loader(batch_sampler=Buckets()),
    "num_workers": loader(num_workers=1),
    "collate_fn": loader(collate_fn=lambda examples: -torch.stack(examples)),
    "pin_memory": loader(pin_memory=True),
    "drop_last": loader(batch_size=5, drop_last=True),
    "timeout": loader(timeout=1),
    "worker_init_fn": loader(worker_init_fn=print),
    "multiprocessing_context": loader(num_workers=1, multiprocessing_context="spawn"),
    "generator": loader(shuffle=True, generator=torch.Generator()),
    "prefetch_factor": loader(num_workers=1, prefetch_factor=2),
    "persistent_workers": loader(num_workers=1, persistent_workers=True),
    "pin_memory_device": loader(pin_memory_device="cuda"),
    "in_order": loader(in_order=False),
}
SAMPLERS: dict[str, Callable[[Path], Any]] = {
    "SequentialSampler": loader(sampler=data.SequentialSampler(range(7))),
    "RandomSampler": loader(sampler=data.RandomSampler(range(7), replacement=True)),
    "SubsetRandomSampler": loader(sampler=data.SubsetRandomSampler([3, 4])),
    "WeightedRandomSampler": loader(sampler=data.WeightedRandomSampler([1.0] * N, 20)),
    "BatchSampler": loader(batch_sampler=data.BatchSampler(Backwards(), 5, drop_last=False)),
    "DistributedSampler": loader(sampler=data.DistributedSampler(Numbers(), 2, 1)),
    "Sampler": loader(sampler=Backwards()),
    "batch sampler of your own": loader(batch_sampler=Buckets()),
    "endless sampler": loader(sampler=Endless()),
}
DATA: dict[str, Callable[[Path], Any]] = {
    "Tensor": lambda folder: torch.arange(N),
    "tuple": lambda folder: (torch.arange(N), torch.zeros(N)),
    "NamedTuple": lambda folder: Pair(torch.arange(N), torch.zeros(N)),
    "ndarray": lambda folder: np.arange(N),
    "memmap": mapped,
    "sparse_coo": lambda folder: torch.eye(N).to_sparse(),
    "sparse_csr": lambda folder: torch.eye(N).to_sparse_csr(),
    "sparse_csc": lambda folder: torch.eye(N).to_sparse_csc(),
    "sparse_bsr": lambda folder: torch.eye(N).to_sparse_bsr((2, 2)),
    "sparse_bsc": lambda folder: torch.eye(N).to_sparse_bsc((2, 2)),
    "jagged": lambda folder: torch.nested.nested_tensor([torch.ones(2)] * N, layout=torch.jagged),
    "nested": lambda folder: torch.nested.nested_tensor([torch.ones(2)] * N),
    "TensorDataset": lambda folder: TensorDataset(torch.arange(N)),
    "Dataset": lambda folder: Numbers(),
    "Subset": lambda folder: data.Subset(Numbers(), range(0, N, 2)),
    "ConcatDataset": lambda folder: data.ConcatDataset([Numbers(), Numbers()]),
    "StackDataset": lambda folder: data.StackDataset(Numbers(), Numbers()),
    "IterableDataset": lambda folder: Stream(),
    "ChainDataset": lambda folder: data.ChainDataset([Stream()]),
    "DataLoader": loader(),
    "subclass of a loader with its own `__iter__`": lambda folder: OwnLoop(Numbers()),
}


LENGTHS = {"Subset": N // 2, "ConcatDataset": 2 * N}
IGNORED = ("worker_init_fn", "pin_memory_device", "in_order")


def test_nothing_of_torchs_is_missing() -> None:
    assert [*rows("Options of a DataLoader")] == [*inspect.signature(DataLoader).parameters]
    kinds = {name: kind for name, kind in vars(data).items() if isinstance(kind, type)}
    samplers = {name for name, kind in kinds.items() if issubclass(kind, data.Sampler)}
    datasets = {name for name, kind in kinds.items() if issubclass(kind, data.Dataset)}
    assert samplers <= rows("Samplers").keys()
    pipes = {name for name in datasets if name.endswith("DataPipe")}
    assert datasets - pipes <= rows("Kinds of data").keys()


@pytest.mark.parametrize(
    ("heading", "cases"),
    [("Kinds of data", DATA), ("Options of a DataLoader", OPTIONS), ("Samplers", SAMPLERS)],
)
def test_what_becomes_of_each(
    heading: str,
    cases: dict[str, Callable[[Path], Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncopt.run.loaders._MANY", 100)
    fates = rows(heading)
    assert cases.keys() == fates.keys()
    for name, make in cases.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what torch calls beta or useless
            given = make(tmp_path)
            size = None if isinstance(given, DataLoader) else 4
            worker = Worker(0, 1, lambda timeout: None)
            if fates[name].startswith("refused"):
                with pytest.raises((TypeError, ValueError), match=r": expected .*, got .*; "):
                    worker.batches(given, size)
                continue
            number = len(list(worker.batches(given, size)))
            assert number == (
                len([*given]) if size is None else -(-LENGTHS.get(name, N) // size)
            ), name
        assert fates[name].startswith("ignored" if name in IGNORED else "used"), name
