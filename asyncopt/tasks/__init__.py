"""Tasks over shared data in pools of worker processes: `map_tasks`, `cross_validate`."""

from asyncopt.tasks.cross_validation import cross_validate
from asyncopt.tasks.map import TaskResult, map_tasks
from asyncopt.tasks.result import CrossValidation
from asyncopt.tasks.training import Epoch, Fold

__all__ = [
    "CrossValidation",
    "Epoch",
    "Fold",
    "TaskResult",
    "cross_validate",
    "map_tasks",
]
