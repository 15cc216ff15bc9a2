"""Lanes: queues that run copies and the work after them in parallel to compute.

A lane runs its work in order, each item after a moment of the caller's compute. On a CUDA device it
is a side stream, on the host a thread; the calling code is the same for both.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = ["CudaLane", "Lane", "Promise", "Span", "ThreadLane", "Ticket", "lane_of"]

SLICE = 0.05  # longest wait in s outside Python, so that this thread can be interrupted
CLOSING = 90.0  # s for a thread to finish its current work, such as a wait for a lock
FRESH = 10.0  # s for which an event is the base of time differences, as they are float32

#: Begin and end in nanoseconds of the monotonic clock.
Span = tuple[int, int]

#: A position in compute: a CUDA event, or on the host a time.
Moment = Any


class Ticket(Protocol):
    """A work item of a lane.

    Attributes:
        begin, end: moments, once it is done.
    """

    begin: Moment
    end: Moment

    def wait(self) -> None:
        """Make later compute of the calling thread wait for it; raise its exception, if any."""

    def finish(self) -> None:
        """Block the calling thread until it is done."""


class Lane(Protocol):
    """A queue of work that runs in parallel to compute."""

    def moment(self) -> Moment:
        """The moment when all compute is done that the calling thread has submitted so far."""

    def submit(self, work: Callable[[], None], after: Moment) -> Ticket:
        """Run `work` after all earlier items, and not before `after`."""

    def ns(self, moment: Moment) -> int:
        """Time of a past moment in nanoseconds of the monotonic clock."""

    def close(self) -> None:
        """End the lane after all submitted work."""


class Promise:
    """A result that another thread completes or fails."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._failure: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """True if it is done or failed."""
        return self._over.is_set()

    def keep(self) -> None:
        """Mark it done."""
        self._over.set()

    def fail(self, failure: BaseException) -> None:
        """Mark it failed; waiters raise the exception."""
        self._failure = failure
        self._over.set()

    def finish(self) -> None:
        """Wait; raise its exception if it failed."""
        while not self._over.wait(SLICE):
            pass
        if self._failure is not None:
            raise self._failure


class _ThreadTicket(Promise):
    begin = end = 0
    wait = Promise.finish


class ThreadLane:
    """A thread.

    Args:
        name: of the thread.
        device: its current one, if it is a CUDA device.
    """

    def __init__(self, name: str, device: torch.device | None = None) -> None:
        self._device = device
        self._is_closed = False
        self._work: queue.SimpleQueue[tuple[Callable[[], None], _ThreadTicket] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def moment(self) -> int:
        """Now: compute on the host is synchronous."""
        return time.monotonic_ns()

    def submit(self, work: Callable[[], None], after: Moment = None) -> _ThreadTicket:
        """See :class:`Lane`."""
        if self._is_closed:
            raise RuntimeError(f"{self._thread.name}: is closed")
        ticket = _ThreadTicket()
        self._work.put((work, ticket))
        return ticket

    def ns(self, moment: int) -> int:
        """Return `moment`, which is in ns already."""
        return moment

    def close(self) -> None:
        """Wait for the thread, for a limited time."""
        self._is_closed = True
        self._work.put(None)
        self._thread.join(CLOSING)

    def _run(self) -> None:
        of_cuda = self._device is not None and self._device.type == "cuda"
        with torch.cuda.device(self._device) if of_cuda else contextlib.nullcontext():
            self._work_off()

    @torch.no_grad()
    def _work_off(self) -> None:
        while (item := self._work.get()) is not None:
            work, ticket = item
            ticket.begin = time.monotonic_ns()
            try:
                work()
            except BaseException as error:
                ticket.fail(error)
            else:
                ticket.end = time.monotonic_ns()
                ticket.keep()
            del item, work, ticket  # so that nothing is kept alive while there is nothing to do


class _CudaTicket:
    def __init__(self, device: torch.device, begin: torch.cuda.Event, end: torch.cuda.Event):
        self._device = device
        self.begin, self.end = begin, end

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self.end)

    def finish(self) -> None:
        self.end.synchronize()


class CudaLane:
    """A side stream on a CUDA device.

    Args:
        device: the device, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._old = self._new = self._base()

    def moment(self) -> torch.cuda.Event:
        """An event on the calling thread's current stream."""
        return _recorded(torch.cuda.current_stream(self._device))

    def submit(self, work: Callable[[], None], after: torch.cuda.Event) -> _CudaTicket:
        """See :class:`Lane`. `work` is called at once; the device work that it submits waits."""
        self._stream.wait_event(after)
        with torch.cuda.stream(self._stream), torch.no_grad():
            begin = _recorded(self._stream)
            work()
            return _CudaTicket(self._device, begin, _recorded(self._stream))

    def ns(self, moment: torch.cuda.Event) -> int:
        """Computed from the device's clock and an event whose host time is known."""
        if time.monotonic_ns() - self._new[1] > FRESH * 1e9:
            self._old, self._new = self._new, self._base()
        event, ns = self._old
        return ns + int(event.elapsed_time(moment) * 1e6)

    def close(self) -> None:
        """Wait for the stream."""
        with contextlib.suppress(RuntimeError):  # a device failure was reported already
            self._stream.synchronize()

    def _base(self) -> tuple[torch.cuda.Event, int]:
        event = _recorded(self._stream)
        event.synchronize()
        return event, time.monotonic_ns()


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    # Blocking: a waiting thread sleeps instead of spinning on a core.
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record(stream)
    return event


def lane_of(device: torch.device, name: str) -> Lane:
    """A new lane for copies to or from a device."""
    return CudaLane(device) if device.type == "cuda" else ThreadLane(name)
