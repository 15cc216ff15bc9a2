"""The observer that records a run for ``Run.ledger``, ``history`` and ``report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncopt.run.observe import Observer, RunView
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.samples import Sample, Sampler
from asyncopt.store.ledger import Ledger

if TYPE_CHECKING:
    from asyncopt.run.optimizers import SharedOptimizer

__all__ = ["Recorder"]


class Recorder(Observer):
    """Samples a run into a table that never grows beyond `most` rows.

    When the table is full, every other sample is dropped and the interval doubled. Samples hold
    counts since the start, so this loses only resolution.

    Args:
        interval: seconds between samples, at first.
        most: samples to keep.
    """

    def __init__(self, interval: float = 0.5, most: int = 2000) -> None:
        self.interval = interval
        self._most = most
        self._sampler: Sampler | None = None
        self._samples: list[Sample] = []
        self._begun: list[tuple[SharedOptimizer, Ledger]] = []

    @property
    def has_started(self) -> bool:
        """True once :meth:`start` was called."""
        return self._sampler is not None

    def start(self, run: RunView) -> None:
        """Take the first sample."""
        self._begun = [(optimizer, optimizer.ledger()) for optimizer in run.optimizers]
        self._sampler = Sampler(run)
        self._samples = [self._sampler.sample()]

    def tick(self, now: float) -> None:
        """Take a sample."""
        sample = self._sample()
        if self._since(sample) < 0.9 * self.interval:  # too early: one at the start barrier
            return
        self._samples.append(sample)
        if len(self._samples) >= self._most:
            del self._samples[1::2]
            self.interval *= 2

    def end(self, error: BaseException | None) -> None:
        """Take the last sample."""
        sample = self._sample()
        if self._since(sample) < self.interval / 2 and len(self._samples) > 1:
            self._samples.pop()  # too close for rates
        if self._since(sample) > 0:
            self._samples.append(sample)

    def history(self) -> History:
        """Samples since ``start``."""
        assert self._sampler is not None
        return History(tuple(self._samples), self._sampler.cores)

    def ledger(self) -> Ledger:
        """Counts since ``start``, over all optimizers."""
        return Ledger.merge([now.ledger().since(then) for now, then in self._begun])

    def _sample(self) -> Sample:
        assert self._sampler is not None
        return self._sampler.sample()

    def _since(self, sample: Sample) -> float:
        return sample.seconds - self._samples[-1].seconds
