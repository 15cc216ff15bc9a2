"""Push of a replica in the background, chunk by chunk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch

from asyncopt import _core
from asyncopt.devices.chunks import Chunk
from asyncopt.devices.lanes import Lane, Moment, Promise, Span, Ticket
from asyncopt.devices.slots import Slot
from asyncopt.devices.writes import Write, addresses
from asyncopt.errors import AsyncoptError, DeviceError
from asyncopt.optim import Optimizer, syncs
from asyncopt.optim.stepper import How, slowed

__all__ = ["Arrival", "Lanes", "Log", "Push", "Pusher", "Spans", "copy", "naming"]

SEEDS = 0x7FFFFFFF  # largest seed of the stochastic rounding


class Spans(NamedTuple):
    """Background work of a push, and the waits for it.

    Attributes:
        out: copies of gradients to the host.
        push: pushes to the store, and pulls from it.
        back: copies of parameters to the device.
        stalled: time in which the worker computed nothing because it waited for any of these.
    """

    out: Sequence[Span] = ()
    push: Sequence[Span] = ()
    back: Sequence[Span] = ()
    stalled: Sequence[Span] = ()


#: Records the spans of a push.
Log = Callable[[Spans], None]


@dataclass(frozen=True)
class Lanes:
    """The lanes of a worker, and the device that they lead to.

    Attributes:
        device: the device.
        out: copies gradients to the host.
        back: copies parameters to the device.
        push: a thread for pushes to and pulls from the store.
    """

    device: torch.device
    out: Lane
    back: Lane
    push: Lane

    def close(self) -> None:
        """End the lanes after all submitted work."""
        for lane in (self.push, self.out, self.back):
            lane.close()


class Arrival(Promise):
    """Promise of a chunk's new parameters on the device.

    Attributes:
        copy: the lane's ticket for the copy to the device, once the promise is done.
    """

    copy: Ticket

    def wait(self) -> None:
        """Make later compute of the calling thread wait for the copy."""
        self.finish()
        self.copy.wait()


@dataclass
class Push:
    """Gradients of a push, and its settings.

    Attributes:
        slot: host and device buffers of the gradients and parameters.
        grads: by the numbers of parameters: a view of the slot, or a sparse gradient, or None.
        writes: by the numbers of parameters: values written to them since they were pulled.
        copies: the lane's tickets for the copies of the gradients, per chunk.
        after: the moment from which on the device's parameters may be written.
        how: from ``Stepper.how``; the seed is that of the first chunk.
        maximize: by the numbers of parameters.
        stalls: begins and ends of the worker's waits before this push.
        arrivals: one per chunk.
        skipped: True if a gradient was infinite or NaN, so that nothing was pushed.
    """

    slot: Slot
    grads: list[torch.Tensor | None]
    writes: dict[int, Write]
    copies: list[Ticket]
    after: Moment
    how: How
    maximize: Sequence[bool]
    stalls: list[tuple[Moment, Moment]]
    arrivals: list[Arrival]
    skipped: bool = False
    spans: list[Span] = field(default_factory=list)


class Pusher:
    """Executes pushes in the push lane.

    Under a sync that supports partial pushes, each chunk is pushed and then pulled separately. If
    non-finite gradients are skipped, this starts after all chunks have arrived and been checked, in
    the order in which the next forward pass needs them; otherwise chunks are pushed as they arrive.
    Under other syncs, and if gradients are corrected first (which may make them infinite), there is
    one push and one pull of everything.

    Args:
        host: the optimizer that pushes; its parameters are private copies.
        chunks: in the order in which gradients arrive.
        to: per chunk, uint8 on the device: destination of the parameters.
        lanes: of the worker.
        log: receives the spans.
    """

    def __init__(
        self,
        host: Optimizer,
        chunks: Sequence[Chunk],
        to: Sequence[torch.Tensor],
        lanes: Lanes,
        log: Log,
    ) -> None:
        self._host = host
        self._chunks = chunks
        self._to = to
        self._lanes = lanes
        self._log = log
        assert host.sharing is not None
        self._segment = host.sharing.store.segment
        self._worker = host.sharing.worker
        self._in_parts = syncs()[host.sync]["in_parts"]
        self._is_over = False

    @property
    def _plan(self) -> _core.Plan:
        return self._host.stepper.plan

    def carry_out(self, push: Push) -> None:
        """Execute a push; waiters for its arrivals also get its exception."""
        try:
            with naming(self._lanes.device, "push in the background"):
                self._push_all(push)
                self._take_down(push)
        except BaseException as failure:
            for arrival in push.arrivals:
                if not arrival.is_over:
                    arrival.fail(failure)
            raise

    def stop(self) -> None:
        """Stop after the part of a push that is in progress."""
        self._is_over = True

    def send(self, slot: Slot, number: int, after: Moment) -> Ticket:
        """Copy one chunk of a slot's parameters to the device."""
        to, pulled = self._to[number], slot.pulled[number]
        return self._lanes.back.submit(partial(copy, to, pulled), after)

    def _push_all(self, push: Push) -> None:
        host, slot = self._host, push.slot
        *_, skip = push.how
        everything = range(len(self._chunks))
        is_corrected = host.stepper.delay is not None and host.stepper.delay.compensates
        in_parts = self._in_parts and not (skip and is_corrected)
        is_finite = True
        if skip or not in_parts:
            for number in everything:
                push.copies[number].finish()
                if in_parts and is_finite:
                    is_finite = self._plan.is_finite(_some(push.grads, self._chunks[number].params))
        if is_corrected and push.writes:  # else they would count as updates of other workers
            self._publish(push)
        if host.stepper.delay is not None:
            host.stepper.delay.computed_from(slot.params, slot.version)
            push.how = slowed(push.how, host.stepper.delay.step_scale())
        if in_parts and is_finite:
            order = list(reversed(everything) if skip else everything)
            slot.version = self._push_in_parts(push, order)
        else:
            slot.version = self._push_whole(push)

    def _publish(self, push: Push) -> None:
        """Apply writes to the store before the gradients, which were computed from them."""
        slot = push.slot
        self._plan.publish(addresses(push.writes, push.writes))
        slot.version += 1
        for number, write in push.writes.items():
            slot.params[number].copy_(write.now)
        push.writes = {}

    def _push_in_parts(self, push: Push, order: Sequence[int]) -> int:
        """Return the version that was pulled: with this push, without any concurrent ones."""
        groups, state, hyper, threads, seed, audit, _ = push.how
        version = None
        for number in order:
            push.copies[number].finish()
            params = self._chunks[number].params
            begin = time.monotonic_ns()
            part = "last" if number == order[-1] else "some"
            how = (groups, state, hyper, threads, (seed + number) & SEEDS, audit, False)
            self._call(push, how, params, part)
            if version is None:  # the push is counted with its last part
                version = self._segment.version + (part == "some")
            self._pull(push.slot, params)
            push.spans.append((begin, time.monotonic_ns()))
            self._arrive(push, number)
        assert version is not None
        return version

    def _push_whole(self, push: Push) -> int:
        params = range(len(push.grads))
        begin = time.monotonic_ns()
        done = self._call(push, push.how, params, "whole")
        push.skipped = done == _core.Plan.SKIPPED
        if push.skipped:
            self._plan.publish(addresses(push.writes, params))
        version = self._pull(push.slot, params)
        push.spans.append((begin, time.monotonic_ns()))
        for number in reversed(range(len(self._chunks))):
            self._arrive(push, number)
        return version

    def _call(self, push: Push, how: How, params: Sequence[int], part: str) -> int:
        if self._is_over:
            raise DeviceError(f"{self._lanes.device}: the worker ended in the middle of a push")
        # Staleness counts from the version that the gradient was computed from, not the last pull.
        self._segment.pull_mark(self._worker, push.slot.version)
        grads = self._corrected(push, params)
        done = self._plan.push(how, grads, part, addresses(push.writes, params))
        if done == _core.Plan.STALE:
            raise ValueError(
                "optimizer.state: expected the entries that it had at the start of the run, as a "
                "worker with a device pushes from elsewhere, got others; load a state before launch"
            )
        if done == _core.Plan.ODD_GRADIENT:
            raise AssertionError("a gradient in a slot does not fit its parameter")
        return done

    def _corrected(self, push: Push, params: Sequence[int]) -> list[torch.Tensor | None]:
        """The gradients of some parameters, corrected for their delay; None for the others."""
        grads = _some(push.grads, params)
        delay = self._host.stepper.delay
        if delay is not None and delay.compensates:
            for i in params:
                grad = grads[i]
                if grad is not None:
                    correct = delay.compensate_rows if grad.is_sparse else delay.compensate
                    grads[i] = correct(i, grad, push.maximize[i])
        return grads

    def _pull(self, slot: Slot, params: Sequence[int]) -> int:
        return self._plan.pull_to(list(params), [slot.params[i].data_ptr() for i in params])

    def _arrive(self, push: Push, number: int) -> None:
        arrival = push.arrivals[number]
        arrival.copy = self.send(push.slot, number, push.after)
        arrival.keep()

    def _take_down(self, push: Push) -> None:
        lanes = self._lanes
        for arrival in push.arrivals:
            arrival.copy.finish()
        spans = Spans(
            out=_spans(lanes.out, ((copy.begin, copy.end) for copy in push.copies)),
            push=push.spans,
            back=_spans(lanes.back, ((a.copy.begin, a.copy.end) for a in push.arrivals)),
            stalled=_spans(lanes.out, push.stalls),
        )
        self._log(spans)

    def take_down_stalls(self, stalls: Sequence[tuple[Moment, Moment]]) -> None:
        """Waits after the last push, which must be over; compute is awaited first."""
        device = self._lanes.device
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        self._log(Spans(stalled=_spans(self._lanes.out, stalls)))


def _some(grads: Sequence[torch.Tensor | None], of: Iterable[int]) -> list[torch.Tensor | None]:
    found: list[torch.Tensor | None] = [None] * len(grads)
    for i in of:
        found[i] = grads[i]
    return found


def _spans(lane: Lane, moments: Iterable[tuple[Moment, Moment]]) -> list[Span]:
    return sorted((lane.ns(begin), lane.ns(end)) for begin, end in moments)


def copy(to: torch.Tensor, source: torch.Tensor) -> None:
    """Copy without blocking the host."""
    to.copy_(source, non_blocking=True)


@contextlib.contextmanager
def naming(device: torch.device, call: str) -> Iterator[None]:
    """Context in which errors of the device become a DeviceError that names it and the call.

    Torch raises them as RuntimeError; errors of this package are left as they are.
    """
    try:
        yield
    except AsyncoptError:
        raise
    except RuntimeError as error:
        raise DeviceError(f"{device}: {call}: {type(error).__name__}: {error}") from error
