"""Measured rates of copies, pushes and transfers, from which `modes` predicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed

import asyncopt
from asyncopt.run.threads import torch_threads
from asyncopt.studies.diagnosis.plan import RateRow
from asyncopt.studies.machine import available_memory, cache_size

FLOAT = 4  # bytes
SIZES = (1_000_000, 5_000_000, 25_000_000)  # parameters that are pushed
PUSHED = ("SGD", "Adam")  # rules that are always measured
COPIED = 64 * 2**20  # bytes; more where the last cache is as large
REDUCED = 16 * 2**20  # bytes that are summed up
SAMPLES = 9
ROOM = 64  # bytes of memory per parameter while a push is measured, at most


@dataclass(frozen=True)
class Push:
    """Time of a rule's push to a store.

    Attributes:
        sizes: numbers of parameters, ascending.
        alone: seconds of each size on one thread.
        together: the same on all threads. Beyond the caches that is what the memory needs.
        traffic: bytes that it reads and writes per parameter.
    """

    sizes: tuple[int, ...]
    alone: tuple[float, ...]
    together: tuple[float, ...]
    traffic: int

    def seconds(self, parameters: int, threads: int) -> float:
        """On so many threads: they divide the work until the memory is busy."""
        return max(self._at(parameters, self.alone) / threads, self.busy(parameters))

    def busy(self, parameters: int) -> float:
        """Seconds that a push keeps all of the memory busy."""
        return self._at(parameters, tuple(map(min, self.alone, self.together)))

    def _at(self, parameters: int, seconds: tuple[float, ...]) -> float:
        """Between the sizes that were measured in a straight line, beyond them in proportion."""
        rising = np.maximum.accumulate(seconds)
        if parameters > self.sizes[-1]:
            return float(rising[-1] * parameters / self.sizes[-1])
        return float(np.interp(parameters, (0, *self.sizes), (0.0, *rising)))


@dataclass(frozen=True)
class Link:
    """Bytes per second between the host and a device, and on the device itself.

    Attributes:
        to_device: from page-locked (pinned) memory.
        from_device: into page-locked memory.
        pageable_to_device: from memory of the usual kind.
        pageable_from_device: into memory of the usual kind.
        copy: within the device, each byte read once and written once.
    """

    to_device: float
    from_device: float
    pageable_to_device: float
    pageable_from_device: float
    copy: float


@dataclass(frozen=True)
class Rates:
    """Everything that was measured.

    Attributes:
        threads: number of "all threads".
        copy: bytes per second that one thread copies in memory, each read once and written once.
        copy_together: the same for all threads at once.
        pushes: by rule.
        reduce: bytes per second that two workers sum up by gloo; None: torch has none.
        links: by CUDA device.
        peer: bytes per second from the first CUDA device to the second; None: there are not two.
    """

    threads: int
    copy: float
    copy_together: float
    pushes: dict[str, Push]
    reduce: float | None
    links: dict[str, Link]
    peer: float | None

    def link(self, device: str) -> Link:
        """Link of a CUDA device; of a replica on the host, the rate of copies in memory."""
        return self.links.get(device) or Link(*(self.copy,) * 5)

    def rows(self) -> Iterator[RateRow]:
        """Copies, pushes and transfers, one by one."""
        yield RateRow("rates", "copy", None, None, None, self.copy, self.copy_together)
        for rule, push in self.pushes.items():
            for size, alone, together in zip(push.sizes, push.alone, push.together, strict=True):
                moved = push.traffic * size
                name = f"push of {rule}"
                yield RateRow("rates", name, size, alone, together, moved / alone, moved / together)
        if self.reduce is not None:
            yield RateRow("rates", "all-reduce of two, gloo", None, None, None, self.reduce, None)
        for device, link in self.links.items():
            for way, rate in (
                ("to it, pinned", link.to_device),
                ("to it, pageable", link.pageable_to_device),
                ("from it, pinned", link.from_device),
                ("from it, pageable", link.pageable_from_device),
                ("copy on it", link.copy),
            ):
                yield RateRow("rates", f"{device}, {way}", None, None, None, rate, None)
        if self.peer is not None:
            yield RateRow("rates", "cuda:0 to cuda:1", None, None, None, self.peer, None)


def measure(rules: Iterable[str], threads: int) -> Rates:
    """Some seconds: copies, the pushes of `rules` by one thread and by `threads`, transfers."""
    copy = copy_rate(1)
    return Rates(
        threads=threads,
        copy=copy,
        copy_together=max(copy, copy_rate(threads)),
        pushes={rule: push_costs(rule, threads) for rule in rules},
        reduce=reduce_rate(),
        links={device: measure_link(device) for device in cuda_devices()},
        peer=peer_rate("cuda:0", "cuda:1") if len(cuda_devices()) > 1 else None,
    )


def cuda_devices() -> tuple[str, ...]:
    """Names of the CUDA devices here."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(f"cuda:{index}" for index in range(count))


def copy_rate(threads: int) -> float:
    """Bytes per second between two buffers of the host that no cache holds."""
    size = min(max(COPIED, 2 * (cache_size(3) or 0)), available_memory() // 8)
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    with torch_threads(threads):
        return size / least_seconds(lambda: target.copy_(source))


def push_costs(rule: str, threads: int) -> Push:
    """Pushes of a ready-made gradient to a store, of the sizes that memory has room for."""
    room = available_memory() // (2 * ROOM)
    sizes = [size for size in SIZES if size <= room] or SIZES[:1]
    alone: list[float] = []
    together: list[float] = []
    for size in sizes:
        parameter = torch.nn.Parameter(torch.zeros(size))
        optimizer = getattr(asyncopt, rule)([parameter], sync="hogwild")
        optimizer.share_memory(workers=1)
        parameter.grad = torch.full((size,), 1e-3)
        for count, found in ((1, alone), (threads, together)):
            with torch_threads(count):
                found.append(least_seconds(optimizer.step))
    state = optimizer.state[parameter].values()
    slots = sum(torch.is_tensor(each) and each.shape == parameter.shape for each in state)
    # The gradient is read once more before, for NaN; all else is read and written.
    return Push(tuple(sizes), tuple(alone), tuple(together), FLOAT * (2 + 2 * (1 + slots)))


def reduce_rate() -> float | None:
    """Bytes per second of an all-reduce by gloo between two threads, which it treats as hosts."""
    if not (distributed.is_available() and distributed.is_gloo_available()):
        return None
    meeting = distributed.HashStore()  # type: ignore[attr-defined] # it is documented to be

    def member(rank: int) -> float:
        group: Any = distributed.ProcessGroupGloo(meeting, rank, 2, timedelta(seconds=60))
        summed = torch.zeros(REDUCED, dtype=torch.uint8).view(torch.float32)
        return least_seconds(lambda: group.allreduce([summed]).wait())

    with ThreadPoolExecutor(2) as threads:
        return REDUCED / min(threads.map(member, (0, 1)))


def measure_link(device: str) -> Link:
    """Transfers of `COPIED` bytes; each ends when they are there."""
    here = torch.empty(COPIED, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    usual = torch.ones(COPIED, dtype=torch.uint8)
    pinned = usual.pin_memory()
    return Link(
        to_device=_transfer_rate(here, pinned, device),
        from_device=_transfer_rate(pinned, here, device),
        pageable_to_device=_transfer_rate(here, usual, device),
        pageable_from_device=_transfer_rate(usual, here, device),
        copy=_transfer_rate(there, here, device),
    )


def peer_rate(source: str, target: str) -> float:
    """Bytes per second from one device to another."""
    sent = torch.ones(COPIED, dtype=torch.uint8, device=source)
    return _transfer_rate(torch.empty_like(sent, device=target), sent, source, target)


def _transfer_rate(target: torch.Tensor, source: torch.Tensor, *devices: str) -> float:
    def transfer() -> None:
        target.copy_(source, non_blocking=True)
        for device in devices:
            torch.cuda.synchronize(device)

    return COPIED / least_seconds(transfer)


def least_seconds(call: Callable[[], object]) -> float:
    """The fastest of `SAMPLES`, as other programs only ever add; a first call is not counted."""
    taken = []
    for _ in range(SAMPLES + 1):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])
