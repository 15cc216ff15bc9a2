"""Methods built on runs: cross-validation, and any other tasks on shared data."""

from asyncopt.methods.cross_validation import cross_validate
from asyncopt.methods.fold import Fold
from asyncopt.methods.folds import CrossValidation
from asyncopt.methods.tasks import TaskResult, map_tasks
from asyncopt.methods.training import Epoch

__all__ = [
    "CrossValidation",
    "Epoch",
    "Fold",
    "TaskResult",
    "cross_validate",
    "map_tasks",
]
