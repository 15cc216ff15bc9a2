"""Runs: a supervised set of workers on a store."""

from asyncopt.run.fork_server import stop_fork_server
from asyncopt.run.launch import Run, launch
from asyncopt.run.outcome import Loss
from asyncopt.run.worker import Worker

__all__ = ["Loss", "Run", "Worker", "launch", "stop_fork_server"]
