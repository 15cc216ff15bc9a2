"""Functions and classes that no worker can import are sent by value, and return as themselves."""

from __future__ import annotations

import enum
import functools
import importlib.util
import os
import subprocess
import sys
import threading
import types
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.errors import WorkerError
from asyncopt.run import Worker, launch
from asyncopt.tasks import cross_validate, map_tasks

from . import jobs

ROOT = Path(__file__).parents[2]


def closure(number: int) -> Any:
    def inner(worker: Worker, *args: Any) -> int:
        return number + worker.rank

    return inner


class Called:
    def __call__(self, worker: Worker) -> int:
        return 5 + worker.rank

    def method(self, worker: Worker) -> int:
        return 5 + worker.rank


@pytest.mark.slow
@pytest.mark.parametrize(
    "fn",
    [
        lambda worker: 5 + worker.rank,
        closure(5),
        functools.partial(lambda number, worker: number + worker.rank, 5),
        Called(),
        Called().method,
    ],
)
def test_any_function(fn: Any) -> None:
    assert launch(fn, workers=2).results == [5, 6]


def test_local_classes_return_as_themselves() -> None:
    class Base:
        def who(self) -> str:
            return "base"

    class Derived(Base):
        def who(self) -> str:
            return "derived of " + super().who()

    class Color(enum.Enum):
        RED = 1

    @dataclass(frozen=True)
    class Point:
        x: int

    Pair = namedtuple("Pair", "one other")
    things = [Derived(), Color.RED, Point(3), Pair(1, 2), Base, Color, closure]
    who = Derived.who

    def back(worker: Worker, items: list[Any]) -> list[Any]:
        assert items[0].who() == "derived of base"
        assert type(items[0]).__mro__[1] is items[4]
        assert items[1] is items[5].RED
        return items

    for got in launch(back, (things,), workers=2).results:
        assert [type(each) for each in got] == [type(each) for each in things]
        assert got[1:] == things[1:]
    assert Derived.who is who  # the class was not written to
    (result,) = map_tasks(lambda task, items: items[task], [0], (things,), workers=1)
    assert type(result.value) is Derived


def test_a_definition_that_a_worker_makes() -> None:
    def make(worker: Worker) -> Any:
        class Made:
            number = 4

        return Made(), lambda x: x + Made.number

    (made, add) = launch(make, workers=1).results[0]
    assert type(made).number == 4
    assert add(1) == 5


def test_exceptions_of_local_classes() -> None:
    class Local(Exception):
        pass

    def fail(worker: Worker) -> None:
        raise Local("boom")

    with pytest.raises(WorkerError, match="boom") as caught:
        launch(fail, workers=1)
    assert type(caught.value.__cause__) is Local


def test_a_local_model_trains_in_place() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self) -> torch.Tensor:
            return self.weight.sum()

    def train(worker: Worker, net: nn.Module, optimizer: Any) -> None:
        optimizer.zero_grad()
        net().backward()
        optimizer.step()

    net = Net()
    optimizer = asyncopt.SGD(net.parameters(), lr=1.0, sync="atomic")
    launch(train, (net, optimizer), workers=2)
    assert net.weight.tolist() == [-2.0, -2.0]


def test_tensors_in_a_closure_are_shared() -> None:
    counts = torch.zeros(2)

    def count(worker: Worker) -> None:
        counts[worker.rank] += 1

    launch(count, workers=2)
    assert counts.tolist() == [1.0, 1.0]


def test_importable_functions_go_by_name() -> None:
    """So do the classes of their arguments: globals of their modules are the worker's own."""
    (name,) = launch(jobs.nothing_but_a_name, (jobs.Bias,), workers=1).results
    assert name == ("tests.run.jobs", True)


SOURCE = """
STEP = 2

class Thing:
    def go(self, worker):
        return STEP + worker.rank

def make(worker):
    return Thing()
"""


@pytest.mark.parametrize("kind", ["loaded from a path", "made by a program"])
def test_modules_that_workers_cannot_import(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"asyncopt_test_{kind.split()[0]}"
    module: Any = types.ModuleType(name)
    if kind == "loaded from a path":
        path = tmp_path / "code.py"
        path.write_text(SOURCE)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    exec(SOURCE, module.__dict__)
    assert launch(module.Thing().go, workers=2).results == [2, 3]
    (result,) = launch(module.make, workers=1).results
    assert type(result) is module.Thing
    assert not cloudpickle.list_registry_pickle_by_value()


def test_folds_of_lambdas() -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    result = cross_validate(
        lambda: nn.Linear(3, 2),
        (x, y),
        folds=2,
        workers=1,
        optimizer=lambda params: asyncopt.SGD(params, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        loss=lambda output, target: nn.functional.cross_entropy(output, target) * 0,
        metrics={"two": lambda output, target: 2.0},
        epochs=1,
    )
    assert result.mean == {"loss": 0.0, "two": 2.0}


@pytest.mark.parametrize("what", ["fn", "args"])
def test_closures_over_what_cannot_be_sent_are_named(what: str) -> None:
    lock = threading.Lock()

    def holds(worker: Worker) -> None:
        lock.acquire()

    args = {"fn": (holds, ()), "args": (jobs.nothing, (1, holds))}[what]
    name = {"fn": "fn", "args": r"args\[1\]"}[what]
    match = (
        rf"^{name}: expected an object that pickle can send .*holds "
        r"\(closure variable lock: cannot pickle .*lock"
    )
    with pytest.raises(TypeError, match=match):
        launch(*args)


SCRIPT = """
import sys
import torch
from asyncopt import launch, map_tasks

class Thing:
    pass

seen = torch.zeros(2)

def look(worker, thing):
    seen[worker.rank] += 1
    assert isinstance(thing, Thing)
    return Thing(), __name__
"""

USE = """
run = launch(look, (Thing(),), workers=2)
assert all(type(thing) is Thing for thing, _ in run.results)
names, counts = [name for _, name in run.results], seen.tolist()
assert [r.value for r in map_tasks(lambda task: task + len(names), [1, 2], workers=2)] == [3, 4]
"""

BY_VALUE = USE + "assert (names, counts) == (['__main__'] * 2, [1, 1]), (names, counts)\n"
BY_NAME = USE + "assert (names, counts) == (['__mp_main__'] * 2, [0, 0]), (names, counts)\n"


def indented(text: str) -> str:
    return 'if __name__ == "__main__":\n' + "".join(
        f"    {line}\n" for line in text.strip().splitlines()
    )


def python(*arguments: str, script: str | None = None) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=script,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@pytest.mark.slow
def test_a_program_from_stdin() -> None:
    python("-", script=SCRIPT + BY_VALUE)


@pytest.mark.slow
def test_a_program_on_the_command_line() -> None:
    python("-c", SCRIPT + BY_VALUE)


@pytest.mark.slow
def test_an_interactive_session(tmp_path: Path) -> None:
    """What is typed after a script has run is not in its file."""
    path = tmp_path / "script.py"
    path.write_text("import sys\n")
    session = f"exec(compile({SCRIPT + BY_VALUE!r}, '<stdin>', 'exec'))\nsys.exit(0)\n"
    python("-i", "-q", str(path), script=session)


@pytest.mark.slow
def test_a_script(tmp_path: Path) -> None:
    """Its functions are imported from its file, and have their module's globals."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + indented(BY_NAME))
    python(str(path))


@pytest.mark.slow
def test_a_script_with_all_under_its_guard(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(indented(SCRIPT + BY_VALUE))
    python(str(path))


KINDS_OF_CLASSES = """
import collections, dataclasses, enum, typing
import asyncopt

def look(worker, item):
    return repr(item)

if __name__ == "__main__":
    @dataclasses.dataclass
    class Config:
        lr: float = 0.1
    class Mode(enum.Enum):
        A = 1
    class Pair(typing.NamedTuple):
        a: int
    Point = collections.namedtuple("Point", "x y")
    class Oh(Exception):
        pass
    for item in (Config(), Mode.A, Pair(1), Point(1, 2), Oh("no")):
        assert asyncopt.launch(look, (item,), workers=1).results == [repr(item)], item
"""


@pytest.mark.slow
def test_every_kind_of_class_under_the_guard(tmp_path: Path) -> None:
    """Also those that have no function of their own in the file."""
    path = tmp_path / "script.py"
    path.write_text(KINDS_OF_CLASSES)
    python(str(path))


@pytest.mark.slow
def test_a_script_whose_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(indented("import os\nos.remove(__file__)\n" + SCRIPT + BY_VALUE))
    python(str(path))
