"""Lanes: where copies, and what follows from them, run beside compute.

A lane does what it is given in order, each thing once the caller's compute has come to a moment
that the caller names. On a CUDA device it is a side stream, on the host a thread; all code above is
the same for both.
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

SLICE = 0.05  # s that a wait stays away from Python, which may have to stop this thread
CLOSING = 90.0  # s for a thread to end what it is at, which may be to wait for a lock
FRESH = 10.0  # s for which an event is a base to measure others from, which float32 then can

#: Begin and end in nanoseconds of the monotonic clock.
Span = tuple[int, int]

#: Where compute is: a CUDA event, or on the host a time.
Moment = Any


class Ticket(Protocol):
    """Something that a lane was given to do.

    Attributes:
        begin, end: moments, once it is done.
    """

    begin: Moment
    end: Moment

    def wait(self) -> None:
        """Lets what the calling thread computes next wait; raises what went wrong."""

    def finish(self) -> None:
        """Lets the calling thread itself wait."""


class Lane(Protocol):
    """A queue of work beside compute."""

    def moment(self) -> Moment:
        """When all is done that the calling thread has given its device to compute so far."""

    def submit(self, work: Callable[[], None], after: Moment) -> Ticket:
        """Does `work` after all that was submitted before, and not before `after`."""

    def ns(self, moment: Moment) -> int:
        """When that was, in nanoseconds of the monotonic clock; it must be past."""

    def close(self) -> None:
        """Ends the lane when all that was submitted is done."""


class Promise:
    """Something that another thread will have done, or fails to do."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._failure: BaseException | None = None

    @property
    def is_over(self) -> bool:
        """True if there is nothing to wait for any more."""
        return self._over.is_set()

    def keep(self) -> None:
        """Mark it done."""
        self._over.set()

    def fail(self, failure: BaseException) -> None:
        """Mark it failed; waiters raise the exception."""
        self._failure = failure
        self._over.set()

    def finish(self) -> None:
        """Waits; raises what it failed with."""
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
        """Now: on the host, what was computed is there."""
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
        """Waits for the thread, unless something holds it up for long."""
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
    """A stream of its own on a CUDA device.

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
        """See :class:`Lane`. `work` is called at once, and what it gives the device to do waits."""
        self._stream.wait_event(after)
        with torch.cuda.stream(self._stream), torch.no_grad():
            begin = _recorded(self._stream)
            work()
            return _CudaTicket(self._device, begin, _recorded(self._stream))

    def ns(self, moment: torch.cuda.Event) -> int:
        """By the device's clock, from an event whose time on the host is known."""
        if time.monotonic_ns() - self._new[1] > FRESH * 1e9:
            self._old, self._new = self._new, self._base()
        event, ns = self._old
        return ns + int(event.elapsed_time(moment) * 1e6)

    def close(self) -> None:
        """Waits for the stream."""
        with contextlib.suppress(RuntimeError):  # a device that fails has been told of
            self._stream.synchronize()

    def _base(self) -> tuple[torch.cuda.Event, int]:
        event = _recorded(self._stream)
        event.synchronize()
        return event, time.monotonic_ns()


def _recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    # Blocking: a thread that waits for it sleeps, and leaves its core to those that compute.
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record(stream)
    return event


def lane_of(device: torch.device, name: str) -> Lane:
    """A new lane for copies to or from a device."""
    return CudaLane(device) if device.type == "cuda" else ThreadLane(name)
