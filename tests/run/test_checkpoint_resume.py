"""Runs that are killed and started again resume where they were."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import asyncopt
from asyncopt.errors import CheckpointError
from asyncopt.run import Worker, launch
from asyncopt.run.checkpoint import Checkpoints, format, observer, resume, save
from asyncopt.run.checkpoint.checkpoint import Snapshot

PROGRAM = Path(__file__).with_name("resumed.py")
ROOT = PROGRAM.parents[2]
RUN: dict[str, Any] = {
    "rule": "Adam",
    "sync": "hogwild",
    "path": None,
    "every": 0.1,
    "rounds": 3,
    "epochs": 6,
    "dispatch": "static",
    "nap": 0.005,
    "workers": 1,
    "max_staleness": 0,
    "window": 1,
}
BATCHES = RUN["rounds"] * RUN["epochs"] * 12


@contextmanager
def started(run: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """The program, in a session of its own."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::RuntimeWarning", str(PROGRAM), json.dumps(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def outcome(run: dict[str, Any]) -> tuple[str, int, list[int]]:
    """The program's result: a digest of the model, its version, steps of each worker."""
    with started(run) as process:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    digest, version, steps = json.loads(stdout)
    return digest, version, steps


def step_of(path: Path) -> int:
    """The step that a checkpoint records."""
    try:
        return int(json.loads((path / "checkpoint.json").read_text())["checkpoint"]["step"])
    except FileNotFoundError:  # a newer one has taken its place
        return -1


@functools.cache
def uninterrupted(sync: str) -> tuple[str, int, list[int]]:
    """The program's result without checkpoints."""
    return outcome(RUN | {"sync": sync})


def interrupt(run: dict[str, Any], sent: signal.Signals, steps: int = 0) -> subprocess.Popen[str]:
    """Start the program, and end it and all its workers after its second checkpoint or later.

    Args:
        run: of the program.
        sent: ends it.
        steps: that the newest checkpoint has at least.
    """
    path = Path(run["path"])
    before = set(path.glob("checkpoint-*")) if path.exists() else set()
    with started(run) as process:
        deadline = time.monotonic() + 60
        while len(new := set(path.glob("checkpoint-*")) - before) < 2 or step_of(max(new)) < steps:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(process.pid, sent)
        process.communicate(timeout=60)
        return process


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "leashed"])
def test_bit_identical_after_kill_9_of_everything(tmp_path: Path, sync: str) -> None:
    """Dropout, numpy's noise, running statistics, moments and a schedule that fn itself steps."""
    expected = uninterrupted(sync)
    assert expected[1:] == (BATCHES, [BATCHES])
    run = RUN | {"sync": sync, "path": str(tmp_path / "run")}
    for _ in range(2):
        assert interrupt(run, signal.SIGKILL).returncode == -signal.SIGKILL
    found = outcome(run)
    assert found[:2] == expected[:2]
    assert 0 < found[2][0] < BATCHES


@pytest.mark.slow
def test_bit_identical_with_accumulated_gradients(tmp_path: Path) -> None:
    """A checkpoint is taken between two windows, so that none is repeated with other noise."""
    run = RUN | {"window": 4, "epochs": 2}
    expected = outcome(run)
    assert expected[1:] == (18, [72])
    run["path"] = str(tmp_path / "run")
    assert interrupt(run, signal.SIGKILL, steps=2).returncode == -signal.SIGKILL
    found = outcome(run)
    assert found[:2] == expected[:2]
    assert 0 < found[2][0] < 72


@pytest.mark.slow
def test_ctrl_c_leaves_a_last_checkpoint(tmp_path: Path) -> None:
    run = RUN | {"path": str(tmp_path / "run")}
    assert interrupt(run, signal.SIGINT).returncode == 1
    last = resume(run["path"])
    assert last is not None
    assert last.workers[0] is not None
    found = outcome(run)
    assert found[:2] == uninterrupted(RUN["sync"])[:2]
    assert found[2][0] == BATCHES - last.step


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = RUN | {"path": str(tmp_path / "run"), "epochs": 1, "every": 60.0}
    digest, version, steps = outcome(run)
    assert steps == [version] == [36]
    assert outcome(run) == (digest, version, [0])


@pytest.mark.slow
def test_every_batch_counts_once(tmp_path: Path) -> None:
    """Two workers on a shared dispenser: batches after the last checkpoint are repeated."""
    run = RUN | {
        "path": str(tmp_path / "run"),
        "sync": "mutex",
        "workers": 2,
        "dispatch": "dynamic",
        "max_staleness": None,
    }
    interrupt(run, signal.SIGKILL)
    last = resume(run["path"])
    assert last is not None
    _, version, steps = outcome(run)
    assert version == BATCHES
    assert sum(steps) == BATCHES - last.step


# --- Beside training


class Counter(torch.nn.Module):
    """Its parameter counts pushes: with SGD and lr=1 a gradient of -1 adds 1."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.nn.Parameter(torch.zeros(4096, dtype=torch.float64))


def count(worker: Worker, model: Counter, optimizer: Any, data: torch.Tensor, nap: float) -> None:
    for _ in worker.batches(data, batch_size=1, dispatch="dynamic"):
        model.count.grad = torch.full_like(model.count, -1)
        optimizer.step()
        time.sleep(nap)


def count_until(worker: Worker, model: Counter, optimizer: Any, note: Path) -> int:
    """Push until the file has two lines."""
    steps = 0
    for _ in worker.batches(torch.zeros(1000), batch_size=1, epochs=1_000_000):
        model.count.grad = torch.full_like(model.count, -1)
        optimizer.step()
        steps += 1
        if note.exists() and note.read_text().count("\n") >= 2:
            break
    return steps


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("sync", ["mutex", "seqlock", "leashed"])
def test_snapshots_are_consistent(tmp_path: Path, mode: str, sync: str) -> None:
    """Parameters, state, version, ledger and dispenser are of one moment, between two batches."""
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, momentum=1e-300, sync=sync)
    run = launch(
        count,
        (model, optimizer, torch.zeros(800), 0.002),
        workers=2,
        mode=mode,
        timeout=60,
        checkpoint=Checkpoints(tmp_path, every=0.02, keep=1000),
    )
    assert run.ledger.pushes == 800
    found = [asyncopt.run.checkpoint.load(path) for path in sorted(tmp_path.glob("checkpoint-*"))]
    assert len(found) > 5
    for each in found:
        assert set(each.tensors["modules.0.count"].tolist()) == {float(each.step)}
        assert float(each.tensors["optimizers.0.state.0.step"]) == each.step
        assert each.ledger.pushes == each.ledger.version == each.step
        assert each.positions is not None
        taken = [following for _, following in each.positions["rounds"]]
        assert sum(taken) == each.step, each.positions
        assert "held" not in {claim[2] for claim in each.positions["claims"]}
    steps = [each.step for each in found]
    assert steps == sorted(steps)
    assert steps[-1] == 800


def checkpoints(path: Path) -> int:
    return len(list(path.glob("checkpoint-*")))


def push_on(worker: Worker, model: Counter, optimizer: Any, path: Path) -> None:
    """Until there are two checkpoints."""
    while checkpoints(path) < 2:
        model.count.grad = torch.full_like(model.count, -1)
        optimizer.step()
        time.sleep(0.001)


def test_a_worker_without_batches_is_reported(tmp_path: Path) -> None:
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    with pytest.warns(RuntimeWarning, match="worker 0 took no batch from worker.batches") as caught:
        launch(
            push_on,
            (model, optimizer, tmp_path),
            workers=1,
            timeout=120,
            checkpoint=Checkpoints(tmp_path, every=0.1),
        )
    assert len(caught) == 1


def lag(
    worker: Worker,
    model: Counter,
    optimizer: Any,
    data: torch.Tensor,
    over: torch.Tensor,
    path: Path,
) -> None:
    """Worker 0 has one batch, and then waits for all batches of the other and 4 checkpoints."""
    if worker.rank == 0:
        for _ in worker.batches(data[:1], batch_size=1):
            pass
        while not over or checkpoints(path) < 4:
            time.sleep(0.01)
    else:
        count(worker, model, optimizer, data, 0.002)
        over.fill_(1)


def test_a_finished_worker_delays_no_checkpoint(tmp_path: Path) -> None:
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync="mutex")
    launch(
        lag,
        (model, optimizer, torch.zeros(400), torch.zeros(1), tmp_path),
        workers=2,
        timeout=120,
        checkpoint=Checkpoints(tmp_path, every=0.05, keep=100),
    )


def meet_often(
    worker: Worker, model: Counter, optimizer: Any, last: torch.Tensor, path: Path
) -> None:
    """Until there are 3 checkpoints; worker 0 says which round is the last."""
    for number, _ in enumerate(worker.batches(torch.zeros(1000), batch_size=1, epochs=1000)):
        model.count.grad = torch.full_like(model.count, -1)
        optimizer.step()
        if worker.rank == 0 and last == 0 and checkpoints(path) >= 3:
            last.fill_(number + 1)
        worker.barrier()
        if 0 < last <= number:
            break


def test_a_worker_at_a_barrier_delays_no_checkpoint(tmp_path: Path) -> None:
    """One worker waits at the barrier for another that is parked."""
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync="mutex")
    launch(
        meet_often,
        (model, optimizer, torch.zeros(1, dtype=torch.int64), tmp_path),
        workers=2,
        timeout=120,
        checkpoint=Checkpoints(tmp_path, every=0.05, keep=100),
    )  # a checkpoint that is held up is left out, with a warning


def refuse(worker: Worker, *args: Any) -> None:
    raise AssertionError("it must not start")


def test_what_cannot_be_resumed_starts_nothing(tmp_path: Path) -> None:
    def made() -> tuple[Counter, Any]:
        model = Counter()
        return model, asyncopt.SGD(model.parameters(), lr=1.0)

    model, optimizer = made()
    launch(count, (model, optimizer, torch.zeros(3), 0), workers=1, checkpoint=tmp_path)
    others = made()
    local = asyncopt.LocalSteps(torch.optim.SGD(Counter().parameters(), lr=1.0), every=2)
    with pytest.raises(CheckpointError, match="got LocalSteps, which trains private replicas"):
        launch(refuse, (local,), workers=1, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="of a run with 2 workers, got one with 1"):
        launch(refuse, others, workers=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="expected 1 modules, as in the checkpoint, got 0"):
        launch(refuse, others[1:], workers=1, checkpoint=tmp_path, resume=True)
    assert others[0].count.tolist() == [0.0] * 4096
    save(made(), tmp_path)
    with pytest.raises(CheckpointError, match=r"asyncopt\.save wrote it"):
        launch(refuse, others, workers=1, checkpoint=tmp_path, resume=True)


def test_a_run_is_saved_when_it_is_over(tmp_path: Path) -> None:
    def made() -> tuple[Counter, Any]:
        model = Counter()
        return model, asyncopt.SGD(model.parameters(), lr=1.0, momentum=1e-300, sync="leashed")

    run = launch(count, (*made(), torch.zeros(7), 0.0), workers=2, mode="thread")
    where = run.save(tmp_path, meta={"why": "done"})
    found = resume(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.meta) == (where, 7, {"why": "done"})
    others = made()
    found.restore((*others, None))
    assert others[0].count.tolist() == [7.0] * 4096


def test_one_of_the_first_format_is_resumed_without_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the buffers that are not persistent, no extra state and no settings of loops."""

    def made() -> tuple[Counter, Any]:
        model = Counter()
        model.register_buffer("cache", torch.ones(2), persistent=False)
        return model, asyncopt.SGD(model.parameters(), lr=1.0)

    take = Snapshot.take

    def took(*args: Any, **options: Any) -> Snapshot:
        snapshot = take(*args, **options)
        packed = safetensors.torch.load(snapshot.packed) | {"modules.0.cache": torch.zeros(2)}
        contents = {name: each for name, each in snapshot.contents.items() if name != "loops"}
        for module in contents["tree"]["modules"]:
            del module["extra"]
        return Snapshot(format.pack(packed), contents)

    with monkeypatch.context() as patch:
        patch.setattr(format, "FORMAT_VERSION", 1)
        patch.setattr(Snapshot, "take", took)
        launch(count, (*made(), torch.zeros(3), 0.0), workers=1, mode="thread", checkpoint=tmp_path)
    model, optimizer = made()
    with pytest.warns(RuntimeWarning, match="before checkpoints recorded the settings of loops"):
        launch(
            count,
            (model, optimizer, torch.zeros(5), 0.0),
            workers=1,
            mode="thread",
            checkpoint=tmp_path,
            resume=True,
        )
    assert model.count.tolist() == [5.0] * 4096
    assert model.get_buffer("cache").tolist() == [1.0] * 2


def test_a_failed_run_leaves_no_last_checkpoint(tmp_path: Path) -> None:
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    with pytest.raises(asyncopt.WorkerError):
        launch(refuse, (model, optimizer), workers=1, checkpoint=tmp_path)
    assert resume(tmp_path) is None


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    refused = tmp_path / "refused"

    def full(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if str(path).startswith(".partial-"):
            with refused.open("a") as file:
                file.write("once\n")
            raise OSError(28, "No space left on device")
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", full)
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    with warnings.catch_warnings(record=True, action="default") as caught:  # equal ones come once
        run = launch(
            count_until,
            (model, optimizer, refused),
            workers=1,
            timeout=60,
            checkpoint=Checkpoints(tmp_path / "here", every=0.05),
        )
    assert run.ledger.pushes == run.results[0]
    messages = [str(each.message) for each in caught]
    assert len(messages) >= 2
    assert run.failed_checkpoints == len(messages)
    for number, message in enumerate(messages, 1):
        assert message.startswith(f"checkpoint: failure {number} of this run: a checkpoint was ")
        assert "No space left on device" in message
    assert [" was the last one " in message for message in messages] == [False] * (
        len(messages) - 1
    ) + [True]
    assert f"\n{len(messages)} checkpoints not written" in str(run)


def test_the_last_checkpoint_is_written_though_the_one_before_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before is still being written when the run ends, and fails only then."""
    ending, noted = threading.Event(), tmp_path / "noted"
    write, result = Snapshot.write, observer._Writer.result

    def fail_once(snapshot: Snapshot, *args: Any) -> Path:
        if noted.exists():
            return write(snapshot, *args)
        noted.write_text("once\ntwice\n")
        assert ending.wait(60)
        raise OSError(28, "No space left on device")

    def end(writer: Any) -> None:
        ending.set()
        result(writer)

    monkeypatch.setattr(Snapshot, "write", fail_once)
    monkeypatch.setattr(observer._Writer, "result", end)
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    with pytest.warns(RuntimeWarning, match="^checkpoint: failure 1 .* No space left"):
        run = launch(
            count_until,
            (model, optimizer, noted),
            workers=1,
            checkpoint=Checkpoints(tmp_path / "here", every=0.05),
        )
    assert run.failed_checkpoints == 1
    found = resume(tmp_path / "here")
    assert found is not None
    assert found.step == run.results[0]


def test_failed_checkpoints_are_not_counted_where_none_failed(tmp_path: Path) -> None:
    model = Counter()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    run = launch(count, (model, optimizer, torch.zeros(2), 0.0), workers=1, checkpoint=tmp_path)
    assert run.failed_checkpoints == 0
    assert "checkpoint" not in str(run)
