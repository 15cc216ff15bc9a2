"""A notebook, executed as by Jupyter: all that it trains with is defined in its cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import sys
import nbclient, nbformat
nbclient.NotebookClient(nbformat.read(sys.argv[1], as_version=4), timeout=300).execute()
"""

DEFINITIONS = """
import dataclasses, enum
import torch
from torch import nn
import asyncopt

SIZE = 3
counts = torch.zeros(2)

class Kind(enum.Enum):
    GOOD = 1

@dataclasses.dataclass
class Outcome:
    kind: Kind
    rank: int
    net: nn.Module

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE, 1)

    def forward(self, x):
        return self.linear(x) * SCALE

SCALE = 2.0

class Stop(Exception):
    pass

def train(worker, net, optimizer, x):
    for batch in worker.batches(x, batch_size=4, epochs=2):
        optimizer.zero_grad()
        loss = net(batch).pow(2).mean()
        loss.backward()
        optimizer.step()
    counts[worker.rank] += 1
    return Outcome(Kind.GOOD, worker.rank, Net())
"""

LAUNCH = """
net = Net()
optimizer = asyncopt.Adam(net.parameters(), lr=0.01)
before = net.linear.weight.detach().clone()
run = asyncopt.launch(train, (net, optimizer, torch.ones(16, SIZE)), workers=2)
assert run.ledger.pushes == 8
assert not torch.equal(net.linear.weight, before)
assert counts.tolist() == [1.0, 1.0]
"""

RESULTS = """
assert [type(result) is Outcome for result in run.results] == [True, True]
assert all(result.kind is Kind.GOOD and type(result.net) is Net for result in run.results)
assert sorted(result.rank for result in run.results) == [0, 1]
x = torch.ones(1, SIZE)
SCALE = 0.0  # the class in the notebook is the notebook's still
assert run.results[0].net(x).item() == net(x).item() == 0.0
"""

REDEFINED = """
def train(worker, net):
    return "redefined", type(net).forward(net, torch.ones(1, SIZE)).item()

assert asyncopt.launch(train, (net,), workers=1).results == [("redefined", 0.0)]
"""

ERRORS = """
def fail(worker):
    raise Stop(f"worker {worker.rank}")

try:
    asyncopt.launch(fail, workers=1)
except asyncopt.WorkerError as error:
    assert type(error.__cause__) is Stop
else:
    raise AssertionError
"""

METHODS = """
offset = 10
results = asyncopt.map_tasks(lambda task, data: float(data[task]) + offset,
                             range(3), (torch.arange(3.0),), workers=2)
assert [result.value for result in results] == [10.0, 11.0, 12.0]

result = asyncopt.cross_validate(
    lambda: nn.Linear(SIZE, 2),
    (torch.randn(12, SIZE), torch.arange(12) % 2),
    folds=2,
    workers=2,
    optimizer=lambda params: asyncopt.SGD(params, lr=0.1),
    loss=lambda output, target: nn.functional.cross_entropy(output, target) * SCALE,
    metrics={"one": lambda output, target: 1.0},
    epochs=1,
)
assert result.mean == {"loss": 0.0, "one": 1.0}

class Classifier(nn.Linear):
    def __init__(self):
        super().__init__(SIZE, 2)

asyncopt.cross_validate(Classifier, (torch.randn(12, SIZE), torch.arange(12) % 2), folds=2,
                        workers=1, epochs=1)
"""


@pytest.mark.slow
def test_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [DEFINITIONS, LAUNCH, RESULTS, REDEFINED, ERRORS, METHODS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
