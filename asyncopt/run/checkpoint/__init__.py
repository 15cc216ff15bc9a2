"""Checkpoints: consistent, written atomically, and without pickle."""

from asyncopt.run.checkpoint.checkpoint import Checkpoint, Checkpoints, load, resume, save

__all__ = ["Checkpoint", "Checkpoints", "load", "resume", "save"]
