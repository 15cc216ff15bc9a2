"""Shared memory: the segment, its layout and its ledger."""

from asyncopt.store.layout import Layout, Place, TensorSpec
from asyncopt.store.ledger import Histogram, Ledger, WorkerLedger
from asyncopt.store.segment import Store

__all__ = ["Histogram", "Layout", "Ledger", "Place", "Store", "TensorSpec", "WorkerLedger"]
