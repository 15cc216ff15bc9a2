"""Objects over a mapping keep it alive: each is used after all other references are gone.

A fault here ends the process, so each case runs in one of its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SETUP = """
import gc, torch, asyncopt
from torch.nn import Parameter
from asyncopt.run.board import Board

def mappings():
    gc.collect()
    with open("/proc/self/maps") as maps:
        return sum("/memfd:asyncopt" in line for line in maps)

def shared():
    params = [Parameter(torch.zeros(1000)), Parameter(torch.zeros(7))]
    optimizer = asyncopt.Adam(params, sync={sync!r})
    optimizer.share_memory(workers=2)
    return optimizer
"""

CASES = {
    "segment": """
kept = shared().store.segment
assert mappings() == 1
assert (kept.version, kept.workers) == (0, 3)
kept.pull_mark(1)
kept.ledger()
kept.release_worker(kept.claim_worker())
""",
    "bound method": """
kept = shared().store.segment.ledger
assert mappings() == 1
assert len(kept()) == 3
""",
    "attached segment": """
from asyncopt.store import Store
store = shared().store
kept = Store.attach(store.memory).segment
del store
assert mappings() == 1
kept.ledger()
""",
    "plan": """
optimizer = shared()
optimizer.param_groups[0]["params"][0].grad = torch.ones(1000)
optimizer.step()
kept = optimizer.stepper.plan
del optimizer
assert mappings() == 1
try:
    kept.pull()
except asyncopt.SegmentError as error:
    assert "the slot was given back" in str(error)
else:
    raise AssertionError
""",
    "board": """
kept = Board(3)._core
assert mappings() == 1
kept.beat(2)
assert kept.take(0, 0, 10) == 0
kept.seat(2)
""",
    "attached board": """
kept = Board.attach(Board(3)._memory)._core
assert mappings() == 1
kept.beat(2)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "leashed"])
@pytest.mark.parametrize("case", CASES)
def test_what_outlives_its_store(case: str, sync: str) -> None:
    end = "\ndel kept\nassert mappings() == 0\nprint('well')\n"
    script = SETUP.format(sync=sync) + CASES[case] + end
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
