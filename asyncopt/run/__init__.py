"""Runs: a supervised set of workers on a store."""

from asyncopt.run.launch import Run, launch
from asyncopt.run.worker import Worker

__all__ = ["Run", "Worker", "launch"]
