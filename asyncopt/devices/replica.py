"""A replica: one optimizer's parameters on a worker's device, and transfers from and to the store.

When the last gradient of a chunk is computed, the chunk is packed into a flat buffer on the device.
A lane copies it to the host while earlier layers are still in backward. A thread pushes it to the
store and pulls parameters, which another lane copies back. Each module of the next forward pass
waits only for the parameters that it reads. (Gradients in chunks during backward: Li et al.,
"PyTorch Distributed", arXiv 2006.15704.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.hooks import RemovableHandle

from asyncopt.devices import chunks
from asyncopt.devices.chunks import Chunk
from asyncopt.devices.forward import Forward
from asyncopt.devices.lanes import Moment, Ticket
from asyncopt.devices.push import Arrival, Lanes, Log, Push, Pusher, copy, naming
from asyncopt.devices.slots import Slot
from asyncopt.devices.writes import Write, Writes, addresses
from asyncopt.optim import Optimizer
from asyncopt.optim.checks import check_gradient
from asyncopt.optim.copies import on_host
from asyncopt.optim.parameters import params_of

__all__ = ["DeviceReplica"]


class DeviceReplica:
    """Replica on a device, through which the worker's optimizer steps.

    The optimizer's parameters move to the device. There, gradients are computed and may be changed
    (clipped, unscaled, accumulated) until :meth:`step`.

    Args:
        optimizer: shared, with this worker's slot in the store.
        modules: those that read its parameters, without their submodules.
        lanes: of the worker.
        lag: 0: the next forward pass includes this worker's last push. 1: it begins at once, with
            the parameters pulled after the push before.
        log: receives the spans of each push.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        modules: Iterable[torch.nn.Module],
        lanes: Lanes,
        lag: int,
        log: Log,
    ) -> None:
        self._optimizer = optimizer
        self._lanes = lanes
        self._lag = lag
        self._log = log
        self._params = params_of(optimizer)
        self._host = on_host(optimizer)
        self._values = params_of(self._host)  # on the host, those of a slot
        self._pushes = 0
        self._order: list[int] | None = []  # in which gradients arrive, until the first step
        self._stalls: list[tuple[Moment, Moment]] = []
        self._running: Ticket | None = None  # the last push
        self._last: Push | None = None  # what it was, until what it brings is in use
        self._coming: dict[int, Arrival] = {}  # what nobody has waited for
        version = self._host.stepper.plan.pull()
        self._arrange(self._cut([list(reversed(range(len(self._params))))]), version)
        optimizer.stepper.step_through(self, self._host.stepper)
        self._writes = Writes(self._params)
        self._forward = Forward(modules if lag == 0 else (), self._params, self._wait_for)
        self._handles: list[RemovableHandle] = [
            param.register_post_accumulate_grad_hook(partial(self._has_gradient, number))
            for number, param in enumerate(self._params)
            if param.requires_grad
        ]

    # --- Memory --------------------------------------------------------------------------------

    def _cut(self, orders: Iterable[list[int]]) -> list[Chunk]:
        """Chunks for groups of parameters; no chunk holds parameters of two groups."""
        sizes = [value.numel() * value.element_size() for value in self._values]
        return [c for order in orders for c in chunks.cut(order, sizes)]

    @torch.no_grad()
    def _arrange(self, cut: list[Chunk], version: int) -> None:
        """Allocate all buffers again."""
        device, values = self._lanes.device, self._values
        self._chunks = cut
        self._chunk_of = {i: n for n, chunk in enumerate(self._chunks) for i in chunk.params}
        self._slots = [Slot(self._chunks, values, device, version) for _ in range(1 + self._lag)]
        self._current = [
            torch.empty(c.nbytes, dtype=torch.uint8, device=device) for c in self._chunks
        ]
        self._places = list(values)  # of the parameters, by number
        for chunk, current in zip(self._chunks, self._current, strict=True):
            for i, view in zip(chunk.params, chunks.views(current, chunk, values), strict=True):
                view.copy_(values[i])
                self._params[i].data = self._places[i] = view
        for value, place in zip(values, self._slots[0].params, strict=True):
            value.data = place
        # With a lag, incoming parameters need their own buffers beside those in use.
        self._incoming = (
            [torch.empty_like(current) for current in self._current] if self._lag else self._current
        )
        self._pusher = Pusher(self._host, self._chunks, self._incoming, self._lanes, self._log)
        self._missing = [set(chunk.params) for chunk in self._chunks]
        self._staged: dict[int, _Staged] = {}

    def stop(self) -> None:
        """Let a background push end early."""
        self._pusher.stop()

    def close(self) -> None:
        """Remove the hooks. The lanes must be closed."""
        self._forward.remove()
        for handle in self._handles:
            handle.remove()
        self._optimizer.stepper.link = None

    # --- Gradients to the host -----------------------------------------------------------------

    def _has_gradient(self, number: int, param: torch.Tensor) -> None:
        """Hook after a parameter's gradient was accumulated, in backward."""
        if self._order is not None:
            self._order.append(number)
        chunk = self._chunk_of[number]
        missing = self._missing[chunk]
        missing.discard(number)
        if not missing:
            self._stage(chunk)
            missing.update(self._chunks[chunk].params)  # start again, if gradients accumulate

    @torch.no_grad()
    def _stage(self, number: int) -> None:
        """Pack a chunk's gradients, which may then change, and copy them to the host."""
        slot = self._next
        before, slot.push = slot.push, None  # the push that used it before
        if before is not None:
            self._stalled(before.finish)
        dense = self._dense(number)
        if dense:
            torch._foreach_copy_([slot.packed_grads[i] for i in dense], list(dense.values()))
        landed, packed = slot.landed[number], slot.packed[number]
        out = self._lanes.out
        ticket = out.submit(partial(copy, landed, packed), out.moment())
        stamps = {i: (grad, grad._version) for i, grad in dense.items()}
        self._staged[number] = _Staged(stamps, ticket)

    def _dense(self, number: int) -> dict[int, torch.Tensor]:
        """A chunk's dense gradients by the numbers of their parameters."""
        return {
            i: grad
            for i in self._chunks[number].params
            if (grad := self._params[i].grad) is not None
            and grad.layout == torch.strided
            and grad.numel()
        }

    def _stage_anew(self) -> None:
        """Stage gradients that are not staged or have changed: clipped, unscaled, replaced.

        Most changes increment a tensor's version. Others, such as an unscaling GradScaler, an
        all-reduce or ``grad.data``, are found by comparing values, which waits for backward.
        """
        slot, differ = self._next, []
        for number in range(len(self._chunks)):
            staged = self._staged.get(number)
            now = {i: (grad, grad._version) for i, grad in self._dense(number).items()}
            if staged is None or not _are_same(staged.stamps, now):
                self._stage(number)
            elif now:
                packed = [slot.packed_grads[i] for i in now]
                differ.append((number, _differ(packed, [grad for grad, _ in now.values()])))
        if differ:
            flags = torch.stack([flag for _, flag in differ]).tolist()
            for (number, _), flag in zip(differ, flags, strict=True):
                if flag:
                    self._stage(number)

    # --- Steps ---------------------------------------------------------------------------------

    def step(self) -> int:
        """Push the gradients, and earlier writes to parameters, in the background.

        Returns:
            The number of gradients.

        Raises:
            DeviceError, LockTimeout: the push before failed.
            ValueError: a sparse gradient names rows that its parameter does not have, a parameter
                was moved to other memory, or was written while its newest values were in transfer.
        """
        with naming(self._lanes.device, "step"):
            self.flush()
            self._check_places()
            writes = self._writes.take(self._next)
            if self._order is not None:
                self._settle(self._order)
            self._stage_anew()
            if self._lag:
                self._land()
            count = self._push(self._next, writes)
            if self._forward.nobodys:
                self._wait_for(self._forward.nobodys)
            return count

    def _check_places(self) -> None:
        for i, (param, place) in enumerate(zip(self._params, self._places, strict=True)):
            if (param.data_ptr(), param.dtype, param.shape, param.stride()) != (
                place.data_ptr(),
                place.dtype,
                place.shape,
                place.stride(),
            ):
                raise ValueError(
                    f"params[{i}]: expected {place.dtype}, shape {tuple(place.shape)}, on "
                    f"{place.device}, as the worker was given it; got {param.dtype}, shape "
                    f"{tuple(param.shape)}, on {param.device}, in other memory (was .data "
                    "replaced, or the model converted or moved?); do that before launch, or write "
                    "into it with .copy_() instead"
                )

    @property
    def _next(self) -> Slot:
        """The slot of the next push."""
        return self._slots[self._pushes % len(self._slots)]

    def _settle(self, arrived: list[int]) -> None:
        """Order the chunks as gradients arrived in the first backward pass, if any did."""
        self._order = None
        self._forward.settle()
        others = set(range(len(self._params))).difference(arrived)
        cut = self._cut([list(dict.fromkeys(arrived)), sorted(others, reverse=True)])
        if cut != self._chunks:
            for staged in self._staged.values():
                staged.copy.finish()
            self._arrange(cut, self._next.version)

    def _push(self, slot: Slot, writes: dict[int, Write]) -> int:
        optimizer, host, lanes = self._optimizer, self._host, self._lanes
        self._take_over_options()
        grads = [self._on_its_way(i, slot) for i in range(len(self._params))]
        _, _, hyper, threads, seed, audit, skip = optimizer.stepper.how()
        optimizer.stepper.seed += len(self._chunks) - 1  # each may take one
        push = Push(
            slot=slot,
            grads=grads,
            writes=writes,
            copies=[self._staged[number].copy for number in range(len(self._chunks))],
            after=lanes.back.moment(),
            how=(host.param_groups, host.state, hyper, threads, seed, audit, skip),
            maximize=optimizer.stepper.maximized(),
            stalls=self._stalls,
            arrivals=[Arrival() for _ in self._chunks],
        )
        self._stalls = []
        self._staged = {}
        self._missing = [set(chunk.params) for chunk in self._chunks]
        self._pushes += 1
        self._last = push
        self._coming = {} if self._lag else dict(enumerate(push.arrivals))
        slot.push = lanes.push.submit(partial(self._pusher.carry_out, push), lanes.push.moment())
        self._running = slot.push
        torch._C._increment_version(self._params)  # autograd then refuses outdated saved values
        self._writes.note()
        return sum(grad is not None for grad in grads)

    @torch.no_grad()
    def _on_its_way(self, number: int, slot: Slot) -> torch.Tensor | None:
        """View of a parameter's gradient in its host buffer."""
        grad = self._params[number].grad
        if grad is None or grad.layout == torch.strided:
            return None if grad is None else slot.grads[number]
        on_host = grad.detach().to("cpu", copy=True)
        return check_gradient(self._values[number], on_host, f"params[{number}]")

    def _take_over_options(self) -> None:
        """Copy the current options to the host's optimizer; they may change its rule."""
        for here, there in zip(self._optimizer.param_groups, self._host.param_groups, strict=True):
            there.update({name: value for name, value in here.items() if name != "params"})
        self._host.stepper.follow_rules()

    # --- Parameters to the device --------------------------------------------------------------

    def _wait_for(self, params: Iterable[int] | None) -> None:
        """Make compute wait for the newest values of some parameters, or of all."""
        if not self._coming:
            return
        wanted = (
            list(self._coming) if params is None else {self._chunk_of[number] for number in params}
        )
        for number in wanted:
            arrival = self._coming.pop(number, None)
            if arrival is not None:
                self._stalled(arrival.wait)
                self._writes.check(self._chunks[number].params)

    @torch.no_grad()
    def _land(self) -> None:
        """Use the parameters pulled after the last push, which has been waited for."""
        if self._last is None:
            return
        for arrival, current, incoming in zip(
            self._last.arrivals, self._current, self._incoming, strict=True
        ):
            self._stalled(arrival.wait)
            self._stalled(partial(copy, current, incoming))
        self._last = None

    def flush(self) -> None:
        """Wait for all background work."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            self._wait_for(None)
            self._stalled(running.finish)
        except BaseException:
            if self._last is not None:
                self._writes.note(kept=self._last.writes)  # they are not in the store
            self._last = None  # it brings nothing
            for slot in self._slots:
                slot.push = None
            raise
        finally:
            self._coming = {}
        if self._last is not None and self._last.skipped:
            self._optimizer.stepper.count_skipped(stacklevel=5)

    @torch.no_grad()
    def pull(self) -> None:
        """Refresh parameters, also on the device, and state from the store, and wait for it.

        Writes to parameters that were not pushed are kept.
        """
        self.flush()
        plan, back = self._host.stepper.plan, self._lanes.back
        writes = self._writes.take(self._next)
        writes = {i: Write(write.now, write.pulled.clone()) for i, write in writes.items()}
        self._slots[0].version = plan.pull()
        for slot in self._slots[1:]:
            slot.version = self._slots[0].version
            for to, pulled in zip(slot.pulled, self._slots[0].pulled, strict=True):
                to.copy_(pulled)
        self._last = None  # what it has brought is older
        after = back.moment()
        both = zip(self._current, self._slots[0].pulled, strict=True)
        tickets = [back.submit(partial(copy, current, pulled), after) for current, pulled in both]
        for ticket in tickets:
            ticket.wait()
            ticket.finish()  # the next push or pull writes into the same memory of the host
        for i, write in writes.items():
            self._params[i].copy_(write.over(self._slots[0].params[i]))
        torch._C._increment_version(self._params)
        self._writes.note(kept=writes)

    @torch.no_grad()
    def publish(self) -> None:
        """Apply writes to parameters to the store, as a separate version."""
        self.flush()
        slot, plan = self._next, self._host.stepper.plan
        writes = self._writes.take(slot)
        plan.publish(addresses(writes, writes))
        for i, write in writes.items():
            slot.params[i].copy_(write.now)
        self._writes.note()

    def rest(self) -> None:
        """Flush, then write all waits to the log."""
        self.flush()
        if self._stalls:
            self._pusher.take_down_stalls(self._stalls)
            self._stalls = []

    def _stalled(self, wait: Callable[[], object]) -> None:
        """Wait, and record the time in which compute was idle."""
        out = self._lanes.out
        begin = out.moment()
        wait()
        self._stalls.append((begin, out.moment()))


@dataclass(frozen=True)
class _Staged:
    """A chunk's gradients in transfer to the host.

    Attributes:
        stamps: by the numbers of parameters, the gradient and its version, to detect writes.
        copy: the lane's ticket.
    """

    stamps: dict[int, tuple[torch.Tensor, int]]
    copy: Ticket


def _are_same(
    then: dict[int, tuple[torch.Tensor, int]], now: dict[int, tuple[torch.Tensor, int]]
) -> bool:
    return then.keys() == now.keys() and all(
        then[i][0] is grad and then[i][1] == version for i, (grad, version) in now.items()
    )


@torch.no_grad()
def _differ(ones: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    """True if any two tensors differ, or are not finite: a bool on their device."""
    if ones[0].device.type == "cpu":
        return torch.tensor(not all(map(torch.equal, ones, others)), device="cpu")
    gaps = torch._foreach_sub(ones, others)
    norms = torch._foreach_norm(gaps, math.inf, dtype=torch.float64)
    return torch.stack(list(norms)).ne(0).any()
