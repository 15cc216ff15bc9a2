"""Training programs to kill: starts one per line read, and prints its process id.

They are forks of this process, which has imported their modules and started no thread; their own
children are spawned. Each is a session of its own. Run by test_killed_launcher.py.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

import asyncopt
from asyncopt.run import launch
from tests.chaos import jobs
from tests.chaos.scene import Scene


def train() -> None:
    model = jobs.Weights(100_000)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync="mutex")
    data = torch.zeros(500)
    launch(jobs.descend, (model, optimizer, data, Scene.of(2)), workers=2, on_error="restart")


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody needs to wait for them
    for _ in sys.stdin:
        program = os.fork()
        if program == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            print(os.getpid(), flush=True)
            train()
            os._exit(0)
