"""Runs that are resumed with something changed: each row of the table in docs/resuming.md."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, RandomSampler, Subset, TensorDataset

import asyncopt
from asyncopt.errors import CheckpointError, WorkerError
from asyncopt.run import Worker, launch
from asyncopt.run.checkpoint import resume

DOCS = Path(__file__).parents[2] / "docs" / "resuming.md"
LOOP: dict[str, Any] = {"batch_size": 4, "epochs": 2, "seed": 1}


class Net(torch.nn.Module):
    """Weights, a random mask, buffers of both kinds, and a count that is extra state."""

    def __init__(self, width: int = 3, seen: int = 4) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(width, 1)
        torch.nn.init.constant_(self.dense.weight, 0.5)
        torch.nn.init.constant_(self.dense.bias, 0.1)
        self.register_buffer("seen", torch.zeros(seen))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        mask = torch.rand(x.shape) < 0.8
        out: torch.Tensor = self.dense(x * mask)
        return out

    def get_extra_state(self) -> Any:
        return {"calls": self.calls, "tensor": torch.full((2,), self.calls)}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]
        assert state["tensor"].tolist() == [self.calls] * 2


def train(worker: Worker, parts: tuple[Any, ...], data: Any, loop: dict[str, Any]) -> list[int]:
    """Numbers of examples in each batch."""
    model, optimizer, *scheduler = parts
    torch.manual_seed(5)
    sizes = []
    for x in worker.batches(data, **loop):
        optimizer.zero_grad()
        model(x[0] if isinstance(x, tuple | list) else x).square().mean().backward()
        optimizer.step()
        for each in scheduler:
            each.step()
        sizes.append(len(x[0]) if isinstance(x, tuple | list) else len(x))
    return sizes


def examples(count: int = 24, width: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


class Trial:
    """One run and its results."""

    def __init__(
        self,
        path: Path | None,
        *,
        rule: str = "SGD",
        sync: str = "hogwild",
        net: dict[str, Any] | None = None,
        hyper: dict[str, Any] | None = None,
        data: Any = None,
        scheduled: bool = False,
        fn: Callable[..., Any] = train,
        loop: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.model = Net(**net or {})
        hyper = {"lr": 0.1} | (hyper or {})
        self.optimizer: Any = getattr(asyncopt, rule)(self.model.parameters(), sync=sync, **hyper)
        parts: tuple[Any, ...] = (self.model, self.optimizer)
        if scheduled:
            parts += (lr_scheduler.StepLR(self.optimizer, 5, 0.5),)
        settings: dict[str, Any] = {"workers": 1, "mode": "thread", "resume": path is not None}
        with warnings.catch_warnings(record=True, action="always") as warned:
            self.run = launch(
                fn,
                (parts, examples() if data is None else data, LOOP | (loop or {})),
                checkpoint=path,
                timeout=60,
                **settings | options,
            )
        self.warned = [str(each.message) for each in warned]
        self.sizes = [size for sizes in self.run.results for size in sizes]

    @property
    def weights(self) -> list[float]:
        return [*self.model.dense.weight.flatten().tolist(), self.model.dense.bias.item()]


def refusal(path: Path, **changed: Any) -> str:
    """How a resume is refused: in ``launch``, or in the worker that makes the loop."""
    before = sorted(path.iterdir())
    with pytest.raises((CheckpointError, WorkerError)) as error:
        Trial(path, **changed)
    assert sorted(path.iterdir()) == before  # nothing was written
    assert isinstance(error.value.__cause__ or error.value, CheckpointError)
    return str(error.value)


def goes_on(path: Path, first: dict[str, Any], second: dict[str, Any]) -> Trial:
    """As an uninterrupted run would, bit for bit."""
    Trial(path, **first)
    found = Trial(path, **second)
    assert found.warned == []
    assert found.weights == Trial(None, **second).weights
    return found


# --- The rows of the table, by the changed thing. Each returns the table's answer.


def nothing(path: Path) -> str:
    """Interrupted and killed runs are those of test_checkpoint_resume.py."""
    goes_on(path, {"loop": {"epochs": 1}}, {})
    return "goes on"


def finished(path: Path) -> str:
    first = Trial(path)
    found = Trial(path)
    assert found.sizes == []
    assert found.weights == first.weights
    (warned,) = found.warned
    assert re.fullmatch(
        f"resume: the run in '{path}' was finished, and no worker got a batch; .* more epochs "
        ".* another directory for a new run",
        warned,
    )
    return "warns"


def more_epochs(path: Path) -> str:
    for dispatch in ("static", "dynamic"):
        loop = {"dispatch": dispatch}
        first = {"loop": loop, "scheduled": True}
        second = {"loop": {**loop, "epochs": 5}, "scheduled": True}
        assert len(goes_on(path / dispatch, first, second).sizes) == 3 * 6
    return "goes on"


def fewer_epochs(path: Path) -> str:
    Trial(path, loop={"epochs": 3})
    assert "epochs: expected at least 3 of 3, which are begun, got 2; " in refusal(path)
    return "refused"


def batch_size(path: Path) -> str:
    Trial(path)
    assert "loop 0: batch_size: expected 4, with which the loop was begun, got 8; " in refusal(
        path, loop={"batch_size": 8}
    )
    return "refused"


def length(path: Path) -> str:
    Trial(path)
    assert "examples: expected 24, with which the loop was begun, got 28" in refusal(
        path, data=examples(28)
    )
    return "refused"


class Rows(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3,), float(index))


def other_data(path: Path) -> str:
    first, second = (np.arange(i, 48, 2).tolist() for i in (0, 1))
    whole = examples(48)
    for number, (one, other) in enumerate(
        [
            (examples(), examples(seed=1)),
            (examples().numpy(), examples(seed=1).numpy()),
            ((examples(), examples()), (examples(), examples(seed=1))),
            (TensorDataset(examples()), TensorDataset(examples(seed=1))),
            (Subset(TensorDataset(whole), first), Subset(TensorDataset(whole), second)),
        ]
    ):
        here = path / str(number)
        Trial(here, data=one)
        message = refusal(here, data=other)
        assert "data: expected the 24 examples with which the loop was begun, got as" in message
        # As another process may have rounded them.
        if isinstance(one, torch.Tensor):
            assert len(Trial(here, data=one * (1 + 1e-6), loop={"epochs": 3}).sizes) == 6
    Trial(path / "kind", data=Rows())
    message = refusal(path / "kind", data=examples())
    assert "source: expected 'Rows', with which the loop was begun, got 'Tensor'" in message
    return "refused"


def seed(path: Path) -> str:
    Trial(path)
    assert "seed: expected 1, with which the loop was begun, got 2" in refusal(
        path, loop={"seed": 2}
    )
    Trial(path / "b", loop={"shuffle": False})
    assert len(Trial(path / "b", loop={"shuffle": False, "seed": 2, "epochs": 3}).sizes) == 6
    return "refused"


def shuffle(path: Path) -> str:
    Trial(path)
    assert "order: expected 'shuffled', with which the loop was begun, got 'sequential'" in refusal(
        path, loop={"shuffle": False}
    )
    return "refused"


def drop_last(path: Path) -> str:
    Trial(path)
    assert "drop_last: expected False, with which" in refusal(path, loop={"drop_last": True})
    return "refused"


def sampler(path: Path) -> str:
    """More epochs of the same loader go on."""

    def loader(batch_size: int = 4, drop_last: bool = False, seed: int = 0) -> DataLoader[Any]:
        drawn = RandomSampler(examples(), generator=torch.Generator().manual_seed(seed))
        return DataLoader(Rows(), batch_size, sampler=drawn, drop_last=drop_last)

    loop = {"batch_size": None, "epochs": 3}
    Trial(path, data=loader(), loop=loop)
    for changed, words in (
        ({"batch_size": 8}, "batch_size: expected 4, with which the loop was begun, got 8; "),
        ({"drop_last": True}, "drop_last: expected False, with which the loop was begun, got True"),
        ({"seed": 1}, "order: expected the first order that RandomSampler drew when the loop was"),
    ):
        assert words in refusal(path, data=loader(**changed), loop=loop)
    fewer = {**loop, "epochs": 2}
    assert "epochs: expected at least 3 of 3" in refusal(path, data=loader(), loop=fewer)
    found = Trial(path, data=loader(), loop={**loop, "epochs": 4})
    assert found.sizes == [4] * 6
    return "refused"


def dispatch(path: Path) -> str:
    Trial(path)
    assert "dispatch: expected 'static', with which the loop was begun, got 'dynamic'" in refusal(
        path, loop={"dispatch": "dynamic"}
    )
    return "refused"


def workers(path: Path) -> str:
    Trial(path)
    assert "of a run with 2 workers, got one with 1" in refusal(path, workers=2)
    return "refused"


def rule(path: Path) -> str:
    Trial(path)
    message = "optimizers[0]: expected SGD, as in the checkpoint, got Adam; "
    assert message in refusal(path, rule="Adam")
    return "refused"


def shapes(path: Path) -> str:
    Trial(path)
    assert "float32 of shape (1, 3), as in the checkpoint, got float32 of shape (1, 4)" in refusal(
        path, net={"width": 4}, data=examples(width=4)
    )
    return "refused"


def buffer_shape(path: Path) -> str:
    Trial(path, net={"seen": 7})
    found = Trial(path, loop={"epochs": 3})
    (warned,) = found.warned
    assert warned.startswith(
        "modules.0.seen: the buffer is of shape (7,) in the checkpoint, of shape"
    )
    assert found.model.seen.shape == (7,)
    return "warns"


def fleeting_buffers(path: Path) -> str:
    goes_on(path, {}, {"loop": {"epochs": 3}})
    last = resume(path)
    assert last is not None
    assert "modules.0.seen" in last.tensors
    assert "modules.0.cache" not in last.tensors
    return "goes on"


def rates(path: Path) -> str:
    Trial(path, hyper={"momentum": 0.9})
    found = Trial(path, hyper={"lr": 0.01, "momentum": 0.5}, loop={"epochs": 3})
    for warned, words in zip(
        found.warned,
        ("lr is 0.1 in the checkpoint, 0.01 here: ", "momentum is 0.9 in the checkpoint, 0.5 here"),
        strict=True,
    ):
        assert warned.startswith(f"resume: optimizers[0]: {words}")
    expected = Trial(None, hyper={"momentum": 0.9}, loop={"epochs": 3})
    assert found.weights == expected.weights
    return "warns"


def sync(path: Path) -> str:
    goes_on(path, {"sync": "hogwild"}, {"sync": "leashed", "loop": {"epochs": 3}})
    return "goes on"


def circumstances(path: Path) -> str:
    goes_on(path, {"max_staleness": 0}, {"stall_timeout": 30.0, "loop": {"epochs": 3}})
    return "goes on"


def scheduler_in_args(path: Path) -> str:
    goes_on(path, {"scheduled": True}, {"scheduled": True, "loop": {"epochs": 4}})
    return "goes on"


def scheduled_in_fn(
    worker: Worker, parts: tuple[Any, ...], data: Any, loop: dict[str, Any]
) -> list[int]:
    model, optimizer = parts
    torch.manual_seed(5)
    scheduler = lr_scheduler.StepLR(optimizer, 5, 0.5)
    by = loop.pop("by")
    if by == "the run":
        worker.schedule(scheduler)
    sizes = []
    for x in worker.batches(data, **loop):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if by == "fn":
            scheduler.step()
        else:
            worker.schedule(scheduler)
        sizes.append(len(x))
    return sizes


def scheduler_in_fn(path: Path) -> str:
    first, second = ({"loop": {"epochs": epochs, "by": "the run"}} for epochs in (1, 4))
    goes_on(path, {"fn": scheduled_in_fn, **first}, {"fn": scheduled_in_fn, **second})
    # Without the call before the loop the first push has the first rate.
    found = Trial(path, fn=scheduled_in_fn, loop={"epochs": 5, "by": "the run, late"})
    assert len(found.warned) == 1
    assert "after a push, which had the rate of step 0; call" in found.warned[0]
    return "goes on"


def scheduler_stepped_in_fn(path: Path) -> str:
    settings: dict[str, Any] = {"fn": scheduled_in_fn, "loop": {"by": "fn"}}
    first = Trial(path, **settings)
    again = Trial(None, **settings, on_error="restart")
    for warned in (first.warned, again.warned):
        assert len(warned) == 1
        assert re.match(
            "scheduler: StepLR is stepped by fn, so it begins anew .*schedule", warned[0]
        )
    assert Trial(None, **settings).warned == []  # nothing can begin anew
    assert Trial(None, scheduled=True, on_error="restart").warned != []
    return "warns"


def extra_state(path: Path) -> str:
    goes_on(path, {}, {"loop": {"epochs": 5}})
    last = resume(path)
    assert last is not None
    net = Net()
    last.restore((net, asyncopt.SGD(net.parameters(), lr=0.1)))
    assert net.calls == 5 * 6
    return "goes on"


def odd_extra_state(path: Path) -> str:
    class Odd(Net):
        def get_extra_state(self) -> Any:
            return {"calls": object()}

    net = Odd()
    args = (net, asyncopt.SGD(net.parameters(), lr=0.1))
    with pytest.raises(CheckpointError, match=r"get_extra_state of Odd: .*calls: .* got object"):
        launch(train, (args, examples(), LOOP), workers=1, mode="thread", checkpoint=path)
    return "refused"


def no_resume(path: Path) -> str:
    Trial(path)
    message = refusal(path, resume=False)
    assert message.startswith(
        f"checkpoint: expected a directory without checkpoints, got '{path}', which holds 1: "
    )
    assert "pass resume=True to go on from the newest, or name another directory" in message
    return "refused"


CHANGES: dict[str, Callable[[Path], str]] = {
    "nothing": nothing,
    "nothing, and the run was finished": finished,
    "more `epochs`": more_epochs,
    "fewer `epochs`": fewer_epochs,
    "`batch_size`": batch_size,
    "length of the data": length,
    "other data of the same length": other_data,
    "`seed` of `worker.batches`": seed,
    "`shuffle`": shuffle,
    "`drop_last`": drop_last,
    "sampler, generator or cut of a `DataLoader`": sampler,
    "`dispatch`": dispatch,
    "`workers`": workers,
    "rule": rule,
    "shape or dtype of a parameter": shapes,
    "shape of a buffer": buffer_shape,
    "non-persistent buffers": fleeting_buffers,
    "`lr` and other hyperparameters": rates,
    "`sync`": sync,
    "`max_staleness`, `mode`, timeouts, telemetry": circumstances,
    "scheduler in `args`": scheduler_in_args,
    "scheduler made in `fn`, `worker.schedule`": scheduler_in_fn,
    "scheduler made in `fn`, its own `step()`": scheduler_stepped_in_fn,
    "extra state of modules": extra_state,
    "extra state that is not plain data": odd_extra_state,
    "no `resume=True`, checkpoints in the directory": no_resume,
}


def rows() -> list[tuple[str, str]]:
    """The changed thing and the answer of each row of the table."""
    lines = DOCS.read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    return [(each[1], each[2]) for each in cells[2:]]


def test_the_table_is_that_of_the_tests() -> None:
    assert [changed for changed, _ in rows()] == list(CHANGES)


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "answer"), rows(), ids=lambda each: str(each).strip("`"))
def test_a_row(changed: str, answer: str, tmp_path: Path) -> None:
    assert CHANGES[changed](tmp_path / "run") == answer
