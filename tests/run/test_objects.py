"""Optimizers in objects are shared with workers, or refused."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt import TaskError, WorkerError, launch, map_tasks
from asyncopt.optim import thread_clone
from asyncopt.optim.reach import Trained

from . import objects
from .objects import STEPS, Agent, Anew, Frozen, Guarded, Private, functions, held

MODES = ("process", "thread")


def check(agent: Agent, run: asyncopt.Run) -> None:
    """Every push of all workers has landed, and was counted."""
    assert agent.model.weight.detach().tolist() == [[float(run.workers * STEPS)] * 3]
    assert run.ledger.pushes == run.workers * STEPS
    assert max(result[0] for result in run.results) == run.workers * STEPS


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_an_optimizer_in_any_object_is_shared(mode: str) -> None:
    """All kinds of holders in one run, each with an agent of its own."""
    agents = {kind: Agent() for kind in held(Agent())}
    holders = {kind: held(agent)[kind] for kind, agent in agents.items()}
    run = launch(train_all, (holders,), workers=2, mode=mode, timeout=120)
    assert run.ledger.pushes == 2 * STEPS * len(agents)
    for kind, agent in agents.items():
        assert agent.model.weight.detach().tolist() == [[2.0 * STEPS] * 3], kind
        assert agent.opt.store is not None, kind


def train_all(worker: asyncopt.Worker, holders: dict[str, Any]) -> None:
    for get, holder in holders.values():
        get(holder).train(worker)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", functions(Agent()))
def test_an_optimizer_that_the_function_reaches_is_shared(kind: str, mode: str) -> None:
    agent = Agent()
    workers = 1 if mode == "process" else 2
    check(agent, launch(functions(agent)[kind], workers=workers, mode=mode, timeout=120))


@pytest.mark.parametrize(("mode", "sync"), [("process", "seqlock"), ("thread", "leashed")])
def test_replicas_in_objects(mode: str, sync: str) -> None:
    agent = Agent(sync)
    check(agent, launch(agent.train, workers=2, mode=mode, timeout=120))


def test_local_steps_in_an_object() -> None:
    """Its own optimizers, local and center, are no optimizers of the run."""
    agent = Agent()
    agent.opt = asyncopt.LocalSteps(agent.opt, every=STEPS, sync="atomic")
    run = launch(agent.train, workers=2, timeout=120)
    assert run.trained.optimizers == [agent.opt]
    assert agent.model.weight.detach().tolist() == [[float(STEPS)] * 3]  # the mean


TYPED = """
import torch, asyncopt
model = torch.nn.Linear(2, 1)
opt = asyncopt.SGD(model.parameters(), lr=1.0, sync="atomic")
def train(worker):
    for _ in range(10):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
before = model.bias.item()
run = asyncopt.launch(train, workers=2)
assert run.ledger.pushes == 20 and abs(before - 20 - model.bias.item()) < 1e-4
"""


@pytest.mark.slow
def test_globals_that_are_sent_by_value_are_shared() -> None:
    """Those of a notebook, an interactive session or ``python -c``."""
    subprocess.run([sys.executable, "-c", TYPED], check=True, timeout=200)


def test_threads_share_all_else() -> None:
    """Each has its own agent, which holds the very objects that the original holds."""
    agent, lock = Guarded(), threading.Lock()
    holder = Frozen(agent, [])
    together: list[int] = []

    def fn(worker: asyncopt.Worker) -> tuple[Agent, list[str]]:
        with lock:
            together.append(worker.rank)
        holder.agent.train(worker)
        return holder.agent, holder.notes

    run = launch(fn, workers=2, mode="thread")
    assert sorted(together) == sorted(agent.seen) == [0, 1]
    (first, notes), (second, others) = run.results
    assert len({id(agent), id(first), id(second)}) == 3
    assert first.me is first
    assert notes is others is holder.notes
    assert first.model.weight.data_ptr() == agent.model.weight.data_ptr()


def test_what_a_thread_cannot_copy_is_named() -> None:
    class Single(Agent):
        def __copy__(self) -> Single:
            return self

    with pytest.raises(TypeError, match=r"args: expected objects that copy\.copy can .* Single \("):
        thread_clone((Single(),))


@pytest.mark.slow
def test_checkpoints_cover_objects(tmp_path: Path) -> None:
    agent = Agent()
    launch(agent.train, workers=2, checkpoint=tmp_path, timeout=120)
    other, saved = Agent(), asyncopt.resume(tmp_path)
    assert saved is not None
    saved.restore(Frozen(other))
    assert torch.equal(other.model.weight, agent.model.weight)
    run = launch(agent.train, workers=2, checkpoint=tmp_path, resume=True, timeout=120)
    assert agent.model.weight.detach().tolist() == [[4.0 * STEPS] * 3]
    run.save(tmp_path / "more")
    more = asyncopt.resume(tmp_path / "more")
    assert more is not None
    more.restore([Private(other)])
    assert torch.equal(other.model.weight, agent.model.weight)


@pytest.mark.parametrize("mode", MODES)
def test_an_optimizer_that_only_a_scheduler_holds(mode: str) -> None:
    agent = Agent()
    scheduler = torch.optim.lr_scheduler.LambdaLR(agent.opt, objects.halve)
    run = launch(objects.step_through, (scheduler,), workers=1, mode=mode, timeout=120)
    assert run.ledger.pushes == 2
    assert agent.model.weight.detach().tolist() == [[1.5] * 3]


def test_torchs_optimizers_in_objects_are_warned_about() -> None:
    agent = Agent()
    agent.opt = torch.optim.Adam(agent.model.parameters())
    with pytest.warns(RuntimeWarning, match=r"got torch\.optim\.adam\.Adam: .*use asyncopt\.Adam"):
        launch(objects.nothing, (agent,), workers=1, timeout=120)


# --- Unshared optimizers are refused --------------------------------------------------------------


ORIGIN = (
    r"step: expected an optimizer that the run shares, or one that fn has made, got (SGD|Local"
    r"Steps) that was made before fn was called, by an import, or by unpickling: .*; "
)
REMEDY = r"pass it to launch in args, or make it in fn; .* copy\.deepcopy\(\(model, optimizer\)\)$"


@pytest.mark.parametrize("mode", MODES)
def test_other_optimizers_are_refused_in_workers(mode: str) -> None:
    objects.here.train()  # so that nothing is left to be prepared at its next step
    data = pickle.dumps(Agent())
    try:
        run = launch(objects.try_all, (data,), workers=1, mode=mode, timeout=120)
        objects.here.opt.unshare()
        objects.here.train()  # outside of workers it may
    finally:
        objects.here.opt.unshare()
    for kind, said in run.results[0].items():
        if kind != "import" or mode == "process":  # this process may have the module
            assert re.search(ORIGIN + REMEDY, said), kind
    assert run.ledger.pushes == 0


def test_other_optimizers_are_refused_in_tasks() -> None:
    (result,) = map_tasks(objects.try_all, [0], (pickle.dumps(Agent()),), workers=1)
    for kind, said in result.value.items():
        assert re.search(ORIGIN + r"make it in fn, or call its share_memory", said), kind


def test_an_optimizer_that_was_shared_before_serves_tasks() -> None:
    agent = Agent()
    agent.opt.share_memory(workers=2)
    map_tasks(objects.train_task, range(4), (agent,), workers=2)
    assert agent.model.weight.detach().tolist() == [[4.0 * STEPS] * 3]
    with pytest.raises(TaskError, match=ORIGIN):
        map_tasks(objects.train_task, range(2), (Agent(),), workers=1)


@pytest.mark.parametrize("mode", MODES)
def test_optimizers_that_the_function_makes_are_its_own(mode: str) -> None:
    before = objects.here.model.weight.detach()[0, 0].item()
    (results,) = launch(objects.train_own, workers=1, mode=mode, timeout=120).results
    one = [float(STEPS)] * 3
    assert results == [one, [2 * each for each in one], [before + STEPS] * 3, one] or (
        mode == "process" and results == [one, [2 * each for each in one], one, one]
    )


def test_optimizers_that_tasks_make_are_their_own() -> None:
    results = map_tasks(objects.train_own, [0, 1], workers=1)
    assert [len(result.value) for result in results] == [4, 4]


def test_what_pickling_does_not_reach_is_left_alone() -> None:
    agent = Agent()
    assert launch(objects.has_agent, (Private(agent),), workers=1).results == [False]
    assert agent.opt.store is None


def test_an_optimizer_that_pickling_makes_is_refused() -> None:
    with pytest.raises(WorkerError, match=ORIGIN):
        launch(objects.train, (objects.agent_of, Anew()), workers=1, timeout=120)


def test_nothing_is_shared_if_arguments_do_not_pickle() -> None:
    agent = Agent()
    before = agent.model.weight.data_ptr()
    with pytest.raises(TypeError, match=r"^args\[1\]: expected an object that pickle can .*lock"):
        launch(objects.nothing, (agent, threading.Lock()), workers=1)
    with pytest.raises(TypeError, match=r"^fn: expected an object that pickle can .*lock"):
        launch(objects.closure(threading.Lock()), (agent,), workers=1)  # type: ignore[arg-type]
    assert agent.opt.store is None
    assert agent.model.weight.data_ptr() == before


def test_a_look_at_arguments_moves_and_copies_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones take no memory, and shared ones no descriptor; torch's way moves nothing."""
    from asyncopt.run import payload

    monkeypatch.setattr(payload, "can_move", lambda: False)
    tensor, shared = torch.zeros(1 << 22), torch.zeros(4).share_memory_()
    model = torch.nn.Linear(2, 2)
    parts = {"args": (tensor, shared, [model], tensor.numpy(), Anew())}
    found = payload.find_trained(parts)
    assert found.modules[0] is model
    assert not tensor.is_shared()
    assert [type(each) for each in found.optimizers] == [asyncopt.SGD]


def test_modules_of_datasets_are_data() -> None:
    """A worker with a device leaves them on the host, where examples are made."""
    from asyncopt.run import payload

    agent, loss = Agent(), torch.nn.CrossEntropyLoss(torch.ones(2))
    dataset = objects.Extracted(agent.model)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    for args in ((dataset, agent, loss), ([loader], loss, agent)):
        for found in (Trained.of(args), payload.find_trained({"args": args})):
            assert {*found.modules} == {agent.model, loss}
            assert found.optimizers == [agent.opt]
