"""Digests of code and data: changed by any change that bears on a fold, and by nothing else."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from asyncopt.tasks.fingerprint import fingerprint
from asyncopt.tasks.user_code import is_library

HELPERS = '''
"""What the models use."""
import enum
SCALE = 2.0
WORDS = {"one", "two", "three", "four"}
class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"
def scale(x): return x * SCALE
def unused(x): return x - 1
'''

MODELS = """
import functools
import torch
from dataclasses import dataclass
from torch import nn
from mine import helpers
from mine.helpers import Mode, WORDS

OFFSET = 1

@dataclass
class Settings:
    width: int = 4

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * x

class Base(nn.Module):
    def forward(self, x):
        return helpers.scale(self.net(x)) if len(WORDS) > 3 else even(x)

class Net(Base):
    slope = 0.5
    def __init__(self, mode=Mode.FAST):
        super().__init__()
        self.net = nn.Linear(6, Settings().width)
        self.used = [Square.apply for name in "ab" if name in {"a", "b", "c"}]
    @staticmethod
    def static(x): return x + 10
    @functools.cached_property
    def cached(self): return 20
    @property
    def proper(self): return 30

@functools.lru_cache
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)

def make_model(*, bias=True):
    from . import late
    import mine.later as later
    late.prepare(later.AMOUNT)
    return Net()

def make_loss(weight):
    def loss(outputs, targets): return weight * (outputs - targets).mean() + OFFSET
    return torch.no_grad()(loss)

loss = make_loss(1.5)
metrics = {"one": lambda o, t: o.mean(), "two": functools.partial(odd, 3)}
"""

FILES = {
    "helpers.py": HELPERS,
    "models.py": MODELS,
    "late.py": "def prepare(x): return x + 1\n",
    "later.py": "AMOUNT = 5\n",
    "__init__.py": "",
}

EDITS = [  # file, what is in it, what comes instead, which digests change
    ("helpers.py", "SCALE = 2.0", "SCALE = 2.5", ["make_model"]),
    ("helpers.py", "return x * SCALE", "return x + SCALE", ["make_model"]),
    ("helpers.py", '"four"', '"five"', ["make_model"]),
    ("helpers.py", 'SLOW = "slow"', 'SLOW = "slower"', ["make_model"]),
    ("models.py", "width: int = 4", "width: int = 3", ["make_model"]),
    ("models.py", "return x * x", "return x * x * x", ["make_model"]),
    ("models.py", "len(WORDS) > 3", "len(WORDS) > 2", ["make_model"]),
    ("models.py", "slope = 0.5", "slope = 0.6", ["make_model"]),
    ("models.py", "mode=Mode.FAST", "mode=Mode.SLOW", ["make_model"]),
    ("models.py", '{"a", "b", "c"}', '{"a", "b", "d"}', ["make_model"]),
    ("models.py", "return x + 10", "return x + 11", ["make_model"]),
    ("models.py", "return 20", "return 21", ["make_model"]),
    ("models.py", "return 30", "return 31", ["make_model"]),
    ("models.py", "class Net(Base)", "class Net(nn.Module)", ["make_model"]),
    ("models.py", "bias=True", "bias=False", ["make_model"]),
    ("models.py", "return n != 0", "return n != 2", ["make_model", "metrics"]),
    ("models.py", "return n == 0", "return n == 1", ["make_model", "metrics"]),
    ("late.py", "x + 1", "x + 2", ["make_model"]),
    ("later.py", "AMOUNT = 5", "AMOUNT = 6", ["make_model"]),
    ("models.py", "return weight *", "return weight -", ["loss"]),
    ("models.py", "make_loss(1.5)", "make_loss(1.25)", ["loss"]),
    ("models.py", "OFFSET = 1", "OFFSET = True", ["loss"]),
    ("models.py", "o.mean()", "o.sum()", ["metrics"]),
    ("models.py", "partial(odd, 3)", "partial(odd, 4)", ["metrics"]),
    ("models.py", '"two": f', '"three": f', ["metrics"]),
    ("helpers.py", "return x - 1", "return x - 2", []),
    ("models.py", "OFFSET = 1", "# How far.\n\nOFFSET = 1  # in units", []),
    ("helpers.py", '"""What the models use."""', "import json\n", []),
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ModuleType]]:
    """A function that reads mine.models from the files in ``tmp_path / "mine"`` anew."""
    for name, text in FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
            del sys.modules[name]

    def read() -> ModuleType:
        forget()
        importlib.invalidate_caches()
        return importlib.import_module("mine.models")

    yield read
    forget()


def digests(models: Any) -> dict[str, str]:
    return {
        name: fingerprint(name, getattr(models, name)) for name in ("make_model", "loss", "metrics")
    }


@pytest.mark.parametrize(("file", "old", "new", "changed"), EDITS, ids=lambda part: str(part)[:24])
def test_edits(
    file: str, old: str, new: str, changed: list[str], package: Any, tmp_path: Path
) -> None:
    before = digests(package())
    assert digests(package()) == before
    assert FILES[file].count(old) == 1
    (tmp_path / "mine" / file).write_text(FILES[file].replace(old, new))
    after = digests(package())
    assert [name for name in before if after[name] != before[name]] == changed


PROGRAM = """
import json, sys
from mine import models
from asyncopt.tasks.fingerprint import fingerprint
names = ("make_model", "loss", "metrics", "Net", "Settings", "Mode", "WORDS")
print(json.dumps({name: fingerprint(name, getattr(models, name)) for name in names}))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("package")
def test_other_processes_have_the_same_digests(tmp_path: Path) -> None:
    """Whatever the order of their sets, and whether the code was compiled or read from a cache."""
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    found = []
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        assert list((tmp_path / "mine").glob("__pycache__/models.*.pyc"))
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) == len(found[0])


class Made(torch.utils.data.Dataset[Any]):
    """A dataset with a state."""

    def __init__(self, step: float, cache: Any = None) -> None:
        self.step = step
        self.cache = cache

    def __len__(self) -> int:
        return 3


def changed_in_the_middle(data: Any) -> Any:
    copy = data.clone() if isinstance(data, torch.Tensor) else data.copy()
    copy[len(copy) // 2] += 1
    return copy


SOME = torch.arange(6000.0)
DATA: dict[str, tuple[Any, Any]] = {
    "float32": (SOME, changed_in_the_middle(SOME)),
    "bfloat16": (SOME[:200].bfloat16(), changed_in_the_middle(SOME[:200].bfloat16())),
    "bool": (SOME > 7, SOME > 8),
    "complex": (torch.ones(5) + 1j, torch.ones(5) + 2j),
    "conjugated": ((torch.ones(5) + 1j).conj(), torch.ones(5) + 1j),
    "a scalar": (torch.tensor(1.0), torch.tensor(2.0)),
    "the shape": (SOME, SOME.reshape(2, -1)),
    "the dtype": (torch.zeros(4), torch.zeros(2, dtype=torch.float64)),
    "a sparse tensor": (torch.eye(4).to_sparse(), (2 * torch.eye(4)).to_sparse()),
    "a parameter": (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
    "numpy": (SOME.numpy(), changed_in_the_middle(SOME.numpy())),
    "numpy strings": (np.array(["a", "b"]), np.array(["a", "c"])),
    "numpy objects": (np.array(["a", None], object), np.array(["a", 1], object)),
    "a generator": (np.random.default_rng(1), np.random.default_rng(2)),
    "a dataset's state": (Made(1.0), Made(1.5)),
    "a dataset's tensor": (Made(1.0, SOME), Made(1.0, changed_in_the_middle(SOME))),
    "a subset": (Subset(Made(1.0), [0, 1]), Subset(Made(1.0), [0, 2])),
    "a tensor dataset": (TensorDataset(SOME), TensorDataset(changed_in_the_middle(SOME))),
    "zero": (0.0, -0.0),
    "true": (True, 1),
    "a list": ([1, [2]], [[1], 2]),
    "text": ("ab", b"ab"),
    "a set": ({1, 2}, frozenset({1, 2})),
    "a dict": ({"a": 1}, {"a": 2}),
    "a path": (Path("a"), Path("b")),
}


@pytest.mark.parametrize("kind", DATA)
def test_data(kind: str) -> None:
    one, other = DATA[kind]
    assert fingerprint("data", one) == fingerprint("data", one)
    assert fingerprint("data", one) != fingerprint("data", other)


def test_the_place_in_memory_does_not_count(tmp_path: Path) -> None:
    table = torch.arange(2 * 70.0).reshape(2, 70)
    array = table.numpy()
    np.save(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    assert fingerprint("data", table.t()) == fingerprint("data", table.t().contiguous())
    assert fingerprint("data", table) == fingerprint("data", table.clone().share_memory_())
    assert fingerprint("data", array.T) == fingerprint("data", np.ascontiguousarray(array.T))
    assert fingerprint("data", mapped) == fingerprint("data", np.array(mapped).view(np.memmap))
    twice = [SOME.tolist()] * 2
    assert fingerprint("data", twice) == fingerprint("data", [SOME.tolist(), SOME.tolist()])


def test_cycles() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [2]
    other.append(other)
    assert fingerprint("data", ring) == fingerprint("data", ring)
    assert fingerprint("data", ring) != fingerprint("data", other)


def iter_of(items: list[Any]) -> Iterator[Any]:
    yield from items


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


LOCK = threading.Lock()


def locked(x: Any) -> Any:
    with LOCK:
        return x


def opened() -> Callable[[], str]:
    file = open(__file__)  # noqa: SIM115 - closed below
    file.close()
    return lambda: file.read()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (locked, r"got an object of type _thread.lock \(the global 'LOCK' of tests\..*\.locked\)"),
        (functools.partial(print, locked), "the global 'LOCK' of tests"),
        (opened(), r"got an object of type _io.TextIOWrapper \(the closure variable 'file' of "),
        (Made(1.0, iter_of([])), "got an object of type builtins.generator"),
        (torch.ones(2, device="meta"), "got a tensor of torch.float32 on meta"),
        (nested(5000), "nested too deeply"),
    ],
    ids=["global", "inside", "closure", "generator", "meta", "deep"],
)
def test_what_cannot_be_compared_is_refused(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^loss: expected what can be compared .*{message}"):
        fingerprint("loss", value)


def test_whose_code_it_is() -> None:
    for module in ("os.path", "torch.nn.functional", "numpy", "asyncopt.optim", "_pytest", "torch"):
        assert is_library(module)
    for module in ("__main__", "tests.tasks.jobs", __name__, "no_such_module"):
        assert not is_library(module)
