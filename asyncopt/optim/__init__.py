"""The torch optimizers.

Averages of the iterates: :class:`ASGD` keeps one in its state, and all workers add to it. For any
other optimizer, ``torch.optim.swa_utils.AveragedModel`` works over a store, as an argument of
:func:`asyncopt.launch` beside the model. Make it before the run (inside ``fn`` it would be private
to its worker), and let one worker call ``update_parameters`` (several would overwrite each other's
average). After the run this process's ``AveragedModel`` has the average.
"""

from asyncopt.optim.averaging import ElasticAveraging, LocalSteps
from asyncopt.optim.base import Optimizer
from asyncopt.optim.clones import thread_clone
from asyncopt.optim.kernels import syncs
from asyncopt.optim.optimizers import ASGD, SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop, rules

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "ElasticAveraging",
    "LocalSteps",
    "Optimizer",
    "RMSprop",
    "rules",
    "syncs",
    "thread_clone",
]
