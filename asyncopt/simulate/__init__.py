"""Prediction for more cores: a discrete-event model of cores, cache lines, locks, staleness.

It does not use the engine: `syncs` models the memory operations of ``src/asyncopt/sync/`` as
events, and `Costs` holds the time of each.
"""

from asyncopt.simulate.costs import Costs, LineCost
from asyncopt.simulate.simulation import Outcome, simulate
from asyncopt.simulate.syncs import SYNCS
from asyncopt.simulate.workload import Workload

__all__ = ["SYNCS", "Costs", "LineCost", "Outcome", "Workload", "simulate"]
