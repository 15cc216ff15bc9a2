"""Methods built on runs: cross-validation, and any other tasks on shared data."""

from asyncopt.tasks.cross_validation import cross_validate
from asyncopt.tasks.fold import Fold
from asyncopt.tasks.folds import CrossValidation
from asyncopt.tasks.map import TaskResult, map_tasks
from asyncopt.tasks.training import Epoch

__all__ = [
    "CrossValidation",
    "Epoch",
    "Fold",
    "TaskResult",
    "cross_validate",
    "map_tasks",
]
