"""Prediction for more cores: a discrete-event model of cores, cache lines, locks, staleness.

It knows nothing of the engine: `syncs` says in events what ``src/asyncopt/sync/`` does in memory,
and `Costs` what each step takes.
"""

from asyncopt.simulate.costs import Costs, LineCost
from asyncopt.simulate.simulation import Outcome, simulate
from asyncopt.simulate.syncs import SYNCS
from asyncopt.simulate.workload import Workload

__all__ = ["SYNCS", "Costs", "LineCost", "Outcome", "Workload", "simulate"]
