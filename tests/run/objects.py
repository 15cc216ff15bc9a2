"""Objects that hold what a run trains; worker processes import them from here."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import asyncopt
from asyncopt import Worker

STEPS = 20


class Agent:
    """Model and optimizer as attributes, as in reinforcement learning; it refers to itself."""

    def __init__(self, sync: str = "mutex") -> None:
        self.model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.model.weight)
        self.opt: Any = asyncopt.SGD(self.model.parameters(), lr=1.0, sync=sync)
        self.me = self
        self.seen: list[int] = []

    def train(self, worker: Worker | None = None, *more: Any) -> list[float]:
        """Push ``STEPS`` gradients of -1; the model at the end."""
        for _ in range(STEPS):
            self.model.weight.grad = torch.full_like(self.model.weight, -1.0)
            self.opt.step()
        if worker is not None:
            self.seen.append(worker.rank)
        return [float(value) for value in self.model.weight.detach().flatten()]


class Guarded(Agent):
    """An object that leaves an unpicklable attribute out of its pickle."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "lock": None}


class Slotted:
    __slots__ = ("agent", "unset")

    def __init__(self, agent: Agent) -> None:
        self.agent = agent


@dataclass(frozen=True)
class Frozen:
    agent: Agent
    notes: list[str] = field(default_factory=list)


class Bag(dict[str, Any]):
    """A dict with attributes."""

    agent: Agent


class Trainer(nn.Module):
    """A module with an agent among its attributes."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent


def train(worker: Worker, get: Callable[[Any], Agent], holder: Any) -> list[float]:
    return get(holder).train(worker)


def closure(agent: Agent) -> Callable[[Worker], list[float]]:
    def run(worker: Worker) -> list[float]:
        assert run is not None  # it refers to itself
        return agent.train(worker)

    return run


def defaults(agent: Agent) -> Callable[..., list[float]]:
    return lambda worker, *, who=agent: who.train(worker)


def held(agent: Agent) -> dict[str, tuple[Callable[[Any], Agent], Any]]:
    """How a worker gets the agent from what holds it, by the holder's kind."""
    bag = Bag()
    bag.agent = agent
    return {
        "attribute": (itself, agent),
        "slot": (agent_of, Slotted(agent)),
        "dataclass": (agent_of, Frozen(agent)),
        "nested": (agent_of, Slotted(Frozen(agent))),  # type: ignore[arg-type]
        "module": (agent_of, Trainer(agent)),
        "dict subclass": (agent_of, bag),
        "set": (first, {agent}),
        "deque": (first, deque([agent])),
        "partial": (call, functools.partial(itself, agent)),
        "method": (owner, agent.train),
    }


def itself(agent: Agent) -> Agent:
    return agent


def agent_of(holder: Any) -> Agent:
    found = holder.agent
    return found if isinstance(found, Agent) else agent_of(found)


def first(holder: Any) -> Agent:
    (agent,) = holder
    return agent  # type: ignore[no-any-return]


def call(holder: Any) -> Agent:
    return holder()  # type: ignore[no-any-return]


def owner(holder: Any) -> Agent:
    return holder.__self__  # type: ignore[no-any-return]


def functions(agent: Agent) -> dict[str, Callable[..., Any]]:
    """Worker functions, by the way in which they reach the agent."""
    return {
        "method": agent.train,
        "partial": functools.partial(train, get=itself, holder=agent),
        "closure": closure(agent),
        "default": defaults(agent),
    }


# --- Optimizers that the run does not share -------------------------------------------------------

here = Agent()  # each process that imports this module has one


def train_global(worker: Any, *more: Any) -> list[float]:
    return here.train()


def train_global_shared_here(worker: Any, *more: Any) -> list[float]:
    """The store is shared with nobody."""
    if here.opt.store is None:
        here.opt.share_memory(workers=2)
    return here.train()


def train_global_rows(worker: Any, *more: Any) -> None:
    weight = here.model.weight
    here.opt.step_rows(weight, torch.zeros(1, dtype=torch.int64), torch.ones_like(weight))


def train_imported(worker: Any, *more: Any) -> list[float]:
    """The module is imported by the call."""
    from . import object_at_import

    return object_at_import.agent.train()


def train_unpickled(worker: Any, data: bytes) -> list[float]:
    return pickle.loads(data).train()  # type: ignore[no-any-return]


def train_local_steps(worker: Any, *more: Any) -> list[float]:
    agent = Agent()
    agent.opt = local_steps
    return agent.train()


local_steps = asyncopt.LocalSteps(torch.optim.SGD(Agent().model.parameters(), lr=1.0), every=2)

FOREIGN: dict[str, Callable[..., Any]] = {
    "global": train_global,
    "global that was shared": train_global_shared_here,
    "rows of a global": train_global_rows,
    "import": train_imported,
    "pickle": train_unpickled,
    "local steps": train_local_steps,
}


def try_all(worker: Any, data: bytes) -> dict[str, str]:
    """The error of each; none has changed."""
    said = {}
    for kind, train_it in FOREIGN.items():
        before = here.model.weight.detach().clone()
        try:
            train_it(worker, data)
        except RuntimeError as error:
            said[kind] = str(error)
        else:
            said[kind] = ""
        assert torch.equal(here.model.weight, before) or not said[kind]
    return said


def train_own(worker: Any, *more: Any) -> list[list[float]]:
    """Private ones: made here, copied here from others, in other threads of the worker too."""
    made = Agent()
    results = [made.train()]
    copied = copy.deepcopy(made)
    results.append(copied.train())
    results.append(copy.deepcopy(here).train())
    thread = threading.Thread(target=lambda: results.append(Agent().train()))
    thread.start()
    thread.join()
    model = nn.Linear(2, 1)
    for local in (torch.optim.SGD, asyncopt.SGD):
        averaging = asyncopt.LocalSteps(local(model.parameters(), lr=0.1), every=2)
        model(torch.ones(2)).backward()
        averaging.step()
    return results


# --- Reached and unreached objects -------------------------------------------------------------


class Private:
    """An object that leaves its agent out of pickles."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Anew:
    """An object that makes another agent whenever it is pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {"agent": Agent()}


class Extracted(torch.utils.data.Dataset[Any]):
    """Examples that networks make of others; one of them is trained."""

    def __init__(self, trained: nn.Module) -> None:
        self.trained = trained
        self.steps = [nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))]


def has_agent(worker: Worker, holder: Any) -> bool:
    return hasattr(holder, "agent")


def nothing(worker: Worker, *args: Any) -> None: ...


def train_task(task: int, agent: Agent) -> list[float]:
    return agent.train()


def halve(step: int) -> float:
    return float(0.5**step)


def step_through(worker: Worker, scheduler: Any) -> None:
    (weight,) = scheduler.optimizer.param_groups[0]["params"]
    for _ in range(2):
        weight.grad = torch.full_like(weight, -1.0)
        scheduler.optimizer.step()
        worker.schedule(scheduler)
