"""DataLoaders: every worker's batches together are those of torch's own loop over the loader."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from asyncopt.errors import WorkerError
from asyncopt.run import Worker, launch
from asyncopt.run.batches import SampledBatches
from asyncopt.run.board import Board
from asyncopt.run.orders import Drawing, Drawings
from asyncopt.run.random_states import Stream
from asyncopt.run.sources import Sampled, check_supply

from . import loops

N = 23
BOTH = pytest.mark.parametrize("dispatch", ["static", "dynamic"])


class Numbers(Dataset[int]):
    """Example i is 100 + i."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        return 100 + range(N)[index]


class Shuffling(Sampler[int]):
    """A sampler of one's own, which draws from Python's, numpy's and torch's global generators."""

    def __iter__(self) -> Iterator[int]:
        numbers = list(range(N))
        random.shuffle(numbers)
        numbers = np.random.permutation(numbers).tolist()  # noqa: NPY002
        yield from (numbers[i] for i in torch.randperm(N).tolist())

    def __len__(self) -> int:
        return N


class Growing(Sampler[list[int]]):
    """Batches of unequal sizes, one more of them each time; counts how often it was drawn from."""

    def __init__(self) -> None:
        self.epochs = 0

    def __iter__(self) -> Iterator[list[int]]:
        self.epochs += 1
        for batch in range(2 + self.epochs):
            yield list(range(batch, N, 5))


class Named(Dataset[int]):
    """A dataset that is asked by name."""

    def __getitem__(self, name: str) -> int:
        return int(name, 16)


class Tiled(Dataset[Any]):
    """A dataset that makes whole batches of lists of numbers."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, numbers: list[int]) -> np.ndarray[Any, Any]:
        return np.asarray(numbers) * 2


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors() -> TensorDataset:
    return TensorDataset(torch.arange(N) * 3)


ARRAYS: Any = [np.array([1, 2]), torch.tensor([3, 5])]
LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "random, of a part": lambda: DataLoader(tensors(), 4, sampler=RandomSampler(range(10))),
    "random, of some": lambda: DataLoader(
        Numbers(), 4, sampler=RandomSampler(Numbers(), num_samples=30)
    ),
    "random, replaced": lambda: DataLoader(
        Numbers(), 4, sampler=RandomSampler(Numbers(), replacement=True)
    ),
    "sequential, of a part": lambda: DataLoader(tensors(), 4, sampler=SequentialSampler(range(10))),
    "subset": lambda: DataLoader(Numbers(), 4, sampler=SubsetRandomSampler(range(3, 20, 2))),
    "weighted": lambda: DataLoader(
        tensors(), 4, sampler=WeightedRandomSampler([*range(1, N + 1)], 50), drop_last=True
    ),
    "distributed": lambda: DataLoader(
        Numbers(), 4, sampler=DistributedSampler(Numbers(), num_replicas=2, rank=1)
    ),
    "list": lambda: DataLoader(tensors(), 4, sampler=[5, -1, 7, 7, 2]),
    "own": lambda: DataLoader(Numbers(), 4, sampler=Shuffling()),
    "generator": lambda: DataLoader(tensors(), 4, shuffle=True, generator=seeded()),
    "generator of a sampler": lambda: DataLoader(
        Numbers(), 4, sampler=RandomSampler(Numbers(), generator=seeded())
    ),
    "batches": lambda: DataLoader(
        Numbers(), batch_sampler=BatchSampler(Shuffling(), 5, drop_last=True)
    ),
    "own batches": lambda: DataLoader(Numbers(), batch_sampler=Growing()),
    "list of batches": lambda: DataLoader(tensors(), batch_sampler=[[1, 2], [3], [4, 5, 6]]),
    "arrays of numbers": lambda: DataLoader(tensors(), batch_sampler=ARRAYS),
    "keys": lambda: DataLoader(Named(), 2, sampler=["a", "ff", "10"]),
    "no batches": lambda: DataLoader(Numbers(), batch_size=None, shuffle=True),
    "lists for the dataset": lambda: DataLoader(
        Tiled(), batch_size=None, sampler=BatchSampler(RandomSampler(Tiled()), 4, drop_last=False)
    ),
}


def plain(batch: Any) -> Any:
    """A batch as numbers."""
    if isinstance(batch, torch.Tensor):
        return batch.tolist()
    return [*map(plain, batch)] if isinstance(batch, list) else batch


def by_torch(loader: DataLoader[Any], epochs: int, seed: int = 0) -> list[list[Any]]:
    """For each epoch the batches of torch's loop, with the global generators seeded before it."""
    result = []
    for epoch in range(epochs):
        if epoch and isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        with Stream(seed, (epoch,)).temporarily():
            result.append(got(loader))
    return result


def worker(board: Board, rank: int = 0) -> Worker:
    return Worker(rank, board.workers, lambda timeout: None, board=board)


def got(loop: Iterable[Any]) -> list[Any]:
    return [plain(batch) for batch in loop]


@pytest.mark.parametrize("name", LOADERS)
def test_batches_are_those_of_torchs_loop(name: str) -> None:
    expected = by_torch(LOADERS[name](), 3, seed=7)
    board = Board(3)
    options: dict[str, Any] = {"epochs": 3, "seed": 7}
    for rank in range(3):
        share = worker(board, rank).batches(LOADERS[name](), **options)
        assert got(share) == list(chain(*(batches[rank::3] for batches in expected)))
    board, everything = Board(3), list(chain(*expected))
    shares = [
        worker(board, rank).batches(LOADERS[name](), dispatch="dynamic", **options)
        for rank in (0, 2)
    ]
    # Two workers, one twice as fast; the third never comes.
    assert got(next(shares[i % 3 // 2]) for i in range(len(everything))) == everything
    assert all(next(loop, None) is None for loop in shares)


@pytest.mark.parametrize("name", ["generator", "own batches"])
def test_a_loader_goes_on_from_call_to_call(name: str) -> None:
    expected, loader = by_torch(LOADERS[name](), 4), LOADERS[name]()
    one = worker(Board(1))
    calls = [got(one.batches(loader, epochs=epochs)) for epochs in (1, 2, 1)]
    assert calls == [expected[0], expected[1] + expected[2], expected[3]]


def test_a_sampler_resumes_from_set_epoch() -> None:
    loader: Any = LOADERS["distributed"]()
    loader.sampler.set_epoch(5)
    second = got(worker(Board(1)).batches(loader, epochs=2))[len(loader) :]
    loader.sampler.set_epoch(6)
    assert second == got(loader)


def test_the_global_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    for name in ("own", "weighted", "subset"):
        with Stream(1).temporarily():
            expected = torch.rand(()), np.random.rand(), random.random()  # noqa: NPY002
        with Stream(1).temporarily():
            list(worker(Board(1)).batches(LOADERS[name](), epochs=2))
            assert expected == (torch.rand(()), np.random.rand(), random.random())  # noqa: NPY002


@BOTH
@pytest.mark.parametrize("name", ["weighted", "generator", "own batches"])
def test_a_replacement_goes_on_with_the_unfinished_batch(name: str, dispatch: str) -> None:
    everything = by_torch(LOADERS[name](), 4)
    share = list(chain(*(e[:: 2 if dispatch == "static" else 1] for e in everything)))
    board, done = Board(2), []
    for _ in range(3):  # each dies in its fourth batch
        loop = worker(board).batches(LOADERS[name](), epochs=4, dispatch=dispatch)
        done += got(next(loop) for _ in range(4))[:3]
        board.leave(0)
    rest = got(worker(board).batches(LOADERS[name](), epochs=4, dispatch=dispatch))
    assert done + rest == share


@BOTH
@pytest.mark.parametrize("name", ["generator", "own batches"])
def test_a_resumed_run_goes_on_after_the_last_batch(name: str, dispatch: str) -> None:
    board = Board(1)
    options: dict[str, Any] = {"epochs": 3, "dispatch": dispatch}
    loop = worker(board).batches(LOADERS[name](), **options)
    for _ in range(8):  # the last one of them is in the second epoch, and not done
        next(loop)
    resumed = Board(1)
    resumed.restore(board.positions())
    rest = got(worker(resumed).batches(LOADERS[name](), **options))
    assert rest == list(chain(*by_torch(LOADERS[name](), 3)))[7:]


def test_an_abandoned_batch_of_an_earlier_epoch_goes_to_a_survivor() -> None:
    board = Board(2)
    options: dict[str, Any] = {"epochs": 4, "dispatch": "dynamic"}
    dead, alive = (worker(board, r).batches(LOADERS["generator"](), **options) for r in (0, 1))
    lost = plain(next(dead))
    seen = got(next(alive) for _ in range(15))  # 6 in an epoch
    board.abandon(0)
    seen += got(alive)
    assert seen[15] == lost
    assert sorted(seen) == sorted(chain(*by_torch(LOADERS["generator"](), 4)))


def test_descriptions_tell_orders_apart() -> None:
    def described(name: str, seed: int) -> dict[str, Any]:
        supply = check_supply(LOADERS[name](), None, None, None)
        assert isinstance(supply, Sampled)
        drawn = Drawing(partial(supply.sampler.draw, seed), 1, 1, lambda *_: None, lambda: 0)
        return SampledBatches(supply, drawn).description()

    assert described("own", 1) == described("own", 1)
    assert described("own", 1) != described("own", 2)
    assert described("generator", 1) == described("generator", 2)
    assert described("random, of a part", 1) != described("sequential, of a part", 1)
    shuffled = check_supply(DataLoader(Numbers(), 4, shuffle=True), None, None, None)
    assert shuffled.description() == {
        "source": "Examples",
        "examples": N,
        "batch_size": 4,
        "order": "shuffled",
        "drop_last": False,
    }


def test_orders_that_nobody_needs_are_dropped() -> None:
    for dispatch in ("static", "dynamic"):
        drawings = Drawings(are_shared=False)
        one = Worker(0, 1, lambda timeout: None, drawings=drawings)
        loop = one.batches(LOADERS["generator"](), epochs=9, dispatch=dispatch)
        for _ in range(50):
            next(loop)
        assert len(drawings._drawings[0]._orders) == 1
        list(loop)
        assert not drawings._drawings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "generator", "own batches"])
@pytest.mark.parametrize("mode", ["thread", "process"])
def test_every_batch_goes_to_one_worker(name: str, mode: str) -> None:
    """Threads share the loader, processes have copies of it."""
    run = launch(loops.collect_from, (LOADERS[name](),), workers=3, mode=mode)
    dealt, expected = list(chain(*run.results)), list(chain(*by_torch(LOADERS[name](), 3)))
    if (name, mode) == ("own", "thread"):  # others may draw from the global generators meanwhile
        assert Counter(map(len, dealt)) == Counter(map(len, expected))
        dealt, expected = list(chain(*dealt)), list(chain(*expected))
    assert Counter(map(str, dealt)) == Counter(map(str, expected))


@BOTH
def test_a_killed_worker_s_batch_is_handed_out_again_and_no_other(
    dispatch: str, tmp_path: Path
) -> None:
    loader = DataLoader(loops.Rows(np.arange(60.0)), 3, shuffle=True, generator=seeded())
    expected = [str(batch) for batch in by_torch(copy.deepcopy(loader), 1)[0]]
    notes = tmp_path / "notes"
    with pytest.warns(RuntimeWarning, match="worker 1 was killed by SIGKILL"):
        launch(loops.note_batches, (loader, notes, dispatch), workers=2, on_error="restart")
    lines = [line.split(" ", 1) for line in notes.read_text().splitlines()]
    third = [batch for rank, batch in lines if rank == "1"][2:4]
    assert third[0] == third[1]  # the replacement's first
    assert Counter(batch for _, batch in lines) == Counter([*expected, third[0]])


def test_a_sampler_that_differs_between_workers_is_refused() -> None:
    message = (
        r"data\.sampler: expected the same order in every worker, got another one from "
        r"DistributedSampler in worker \d, epoch 0; make the loader before the launch"
    )
    with pytest.raises(WorkerError, match=message):
        launch(loops.collect_replicas, (N,), workers=2)


def test_digests_are_compared_by_epoch() -> None:
    board = Board(2)
    assert board.agree(0, 0, 5)
    assert board.agree(0, 0, 5)
    assert not board.agree(0, 0, 6)
    assert board.agree(0, 6, 7)  # where epoch 0 was
    assert board.agree(0, 0, 9)  # too late to tell
    assert not board.agree(0, 6, 8)
    assert board.agree(64, 6, 8)  # a later round in the same place
    assert board.agree(0, 6, 9)
    assert not board.agree(64, 6, 7)
    assert board.agree(1, 0, 0)
    assert not board.agree(1, 0, 2)


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Replacing(DataLoader[Any]):
    def __iter__(self) -> Any:
        return iter([[-1]])


@pytest.mark.parametrize(
    ("loader", "kind", "message"),
    [
        (
            lambda: Replacing(Numbers()),
            TypeError,
            r"data: expected a DataLoader .* got Replacing with its own __iter__; pass .*",
        ),
        (
            lambda: DataLoader(Numbers(), num_workers=2),
            ValueError,
            r"data\.num_workers: expected 0, .*, got 2; .*",
        ),
        (
            lambda: DataLoader(Numbers(), timeout=3),
            ValueError,
            r"data\.timeout: expected 0, .*, got 3; leave it out",
        ),
        (
            lambda: DataLoader(Numbers(), sampler=Endless()),
            ValueError,
            r"data\.sampler: expected an epoch that ends, got more than 10 examples from Endless.*",
        ),
    ],
)
def test_refusals(
    loader: Any, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncopt.run.loaders._MANY", 10)
    monkeypatch.setattr(Numbers, "__len__", lambda self: 1)
    with pytest.raises(kind, match=f"^{message}$"):
        worker(Board(1)).batches(loader())


def test_a_loop_without_epochs_draws_nothing() -> None:
    sampler = Growing()
    assert (
        list(worker(Board(1)).batches(DataLoader(Numbers(), batch_sampler=sampler), epochs=0)) == []
    )
    assert sampler.epochs == 0
