"""The torch optimizers."""

from asyncopt.optim.base import Optimizer
from asyncopt.optim.kernels import syncs
from asyncopt.optim.rules import ASGD, SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop, rules
from asyncopt.optim.sharing import thread_clone

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "rules",
    "syncs",
    "thread_clone",
]
