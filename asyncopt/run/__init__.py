"""Runs: a supervised set of workers on a store."""

from asyncopt.run.fork_server import stop_fork_server
from asyncopt.run.launch import Run, launch
from asyncopt.run.observe import Observer, RunView
from asyncopt.run.outcome import Loss
from asyncopt.run.telemetry.metrics import Metrics
from asyncopt.run.worker import Worker

__all__ = [
    "Loss",
    "Metrics",
    "Observer",
    "Run",
    "RunView",
    "Worker",
    "launch",
    "stop_fork_server",
]
