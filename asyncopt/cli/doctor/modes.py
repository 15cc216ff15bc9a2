"""What a step takes in each mode of training: a small model of cost.

A batch of one worker goes through phases: it is computed, its gradient travels, is pushed, and
parameters come back. What they take, when nobody else is there, is the latency of a batch. Some of
it takes place where workers meet: in the memory, under a lock, on a link, on a core. For N workers,
a latency of D, and B seconds for which each batch occupies the busiest such place, the throughput
is at most

    min(N / D, 1 / B)

batches per second: workers scale up to D / B of them, and further ones wait for that place (the
asymptotic bounds of Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978,
which are nearly reached where times vary little). Left out are cache lines on their way between
cores, for which there is ``asyncopt simulate``, and what workers do to each other's computing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asyncopt.cli.doctor.rates import FLOAT, Rates
from asyncopt.cli.doctor.task import Task

BACKWARD = 2 / 3  # the part of computing that is backward, beside which gradients can travel
SMALL = 0.05  # of a step: an exchange of local steps that costs no more is rare enough
MOST_LOCAL = 64  # steps between exchanges; more of them change the training
COPIES = 4  # of all parameters, in an exchange: its difference, start, and both ways


@dataclass(frozen=True)
class Forecast:
    """A mode and what it comes to.

    Attributes:
        mode: its name.
        how: what to write for it.
        phases: seconds of a batch's latency, by what they are spent on.
        places: seconds that a batch keeps what workers share busy, by its name.
        workers: how many.
        alone: seconds of a batch of one worker that trains by itself, with nothing shared.
        staleness: pushes by others that a gradient misses, about.
        updates: of the model per batch.
    """

    mode: str
    how: str
    phases: dict[str, float]
    places: dict[str, float]
    workers: int
    alone: float
    staleness: float
    updates: float = 1.0

    @property
    def latency(self) -> float:
        """Seconds of a batch with nobody in the way."""
        return sum(self.phases.values())

    @property
    def busiest(self) -> str:
        """The place that is the first to be full."""
        return max(self.places, key=lambda name: self.places[name])

    @property
    def knee(self) -> float:
        """How many workers there can be before they wait for the busiest place."""
        return self.latency / self.places[self.busiest]

    @property
    def waits_for(self) -> str | None:
        """The place that these workers wait for; None: they need not."""
        return self.busiest if self.workers > self.knee * 1.001 else None

    @property
    def seconds(self) -> float:
        """From one batch of a worker to its next."""
        return max(self.latency, self.workers * self.places[self.busiest])

    @property
    def rate(self) -> float:
        """Batches per second of all workers."""
        return self.workers / self.seconds

    @property
    def speedup(self) -> float:
        """Against one worker that trains by itself."""
        return self.rate * self.alone

    def as_json(self) -> dict[str, Any]:
        """Fields and what follows from them."""
        return {
            "mode": self.mode,
            "how": self.how,
            "seconds_per_step": self.seconds,
            "batches_per_second": self.rate,
            "speedup": self.speedup,
            "updates_per_second": self.rate * self.updates,
            "waits_for": self.waits_for,
            "scales_to_workers": self.knee,
            "staleness": self.staleness,
            "phases": self.phases,
            "places": self.places,
        }


def forecasts(task: Task, rates: Rates) -> tuple[Forecast, ...]:
    """Every mode that `task` can be trained in."""
    return tuple(_on_devices(task, rates) if task.devices else _on_the_host(task, rates))


def _threads(task: Task, rates: Rates) -> int:
    """Of each worker, as `launch` shares them out."""
    return max(1, rates.threads // task.workers)


def _on_the_host(task: Task, rates: Rates) -> Iterator[Forecast]:
    workers, size, threads = task.workers, task.parameters, _threads(task, rates)
    rule, plain = rates.pushes[task.rule], rates.pushes["SGD"]
    push, memory = rule.seconds(size, threads), rule.busy(size)
    per_core = threads / rates.threads

    def forecast(mode: str, how: str, phases: dict[str, float], **more: Any) -> Forecast:
        places = {"cores": sum(phases.values()) * per_core, **more.pop("places")}
        return Forecast(mode, how, phases, places, workers, task.compute + push, **more)

    phases = {"compute": task.compute, "push": push}
    yield forecast(
        "in place, lock-free",
        f'{task.rule}(..., sync="hogwild")',
        phases,
        places={"memory": memory},
        staleness=workers - 1,
    )
    yield forecast(
        "in place, one lock",
        f'{task.rule}(..., sync="mutex")',
        phases,
        places={"memory": memory, "lock": push},
        staleness=workers - 1,
    )
    # Each worker sends and receives 2 (N - 1) / N of the gradient; all of them at once.
    sent = 2 * (workers - 1) / workers * FLOAT * size
    reduce = max(sent / rates.copy, workers * sent / rates.copy_together)
    yield forecast(
        "synchronous data parallel",
        "torch DistributedDataParallel with gloo",
        {
            "compute": task.compute,
            "all-reduce": reduce,
            "step": max(push, workers * memory),
        },
        places={},
        staleness=0,
        updates=1 / workers,
    )
    exchange = plain.seconds(size, threads) + COPIES * FLOAT * size / rates.copy
    meanwhile = plain.busy(size) + COPIES * FLOAT * size / rates.copy_together
    every = _every(exchange, task.compute + push)
    yield forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{task.rule}(...), every={every})",
        {"compute": task.compute, "local step": push, "exchange": exchange / every},
        places={"memory": memory + meanwhile / every},
        staleness=workers - 1,
    )


def _on_devices(task: Task, rates: Rates) -> Iterator[Forecast]:
    """Through a store on the host, as `launch` with devices does; then by copies of the model."""
    site = _Site(task, rates)
    how = f"launch(..., devices=[{', '.join(map(repr, task.devices))}])"
    push, memory = site.push(task.rule), rates.pushes[task.rule].busy(task.parameters)
    transfer = {"gradients out": site.out, "push": push, "parameters in": site.back}
    shared = site.places(task.compute, push, memory, 1.0)
    # Chunk by chunk, gradients leave while others are pushed and others come back.
    trip = max(transfer.values())
    for mode, call, exposed, late in (
        ("host store, one after the other", f"{how}, without overlap", transfer, 0),
        (
            "host store, overlapped",
            how,
            {"transfer, not hidden": max(0.0, trip - BACKWARD * task.compute)},
            0,
        ),
        (
            "host store, overlapped, one step late",
            f"{how}, double-buffered",
            {"transfer, not hidden": max(0.0, trip - task.compute)},
            1,
        ),
    ):
        phases = {"compute": task.compute, **exposed}
        yield Forecast(
            mode, call, phases, shared, task.workers, site.alone, task.workers - 1 + late
        )

    step = site.step
    if task.crowd <= 1:  # NCCL takes one worker per device
        # Where devices do not reach each other, what is sent goes out to the host and back.
        per_byte = 1 / rates.peer if rates.peer else (site.out + site.back) / site.data
        reduce = 2 * (task.workers - 1) / task.workers * site.data * per_byte
        hidden = 0.0 if "cpu" in task.devices else BACKWARD * task.compute
        yield Forecast(
            "synchronous data parallel",
            "torch DistributedDataParallel",
            {"compute": task.compute, "all-reduce": max(0.0, reduce - hidden), "step": step},
            site.places(task.compute + step, 0.0, 0.0, 0.0),
            task.workers,
            site.alone,
            0,
            1 / task.workers,
        )
    push, memory = site.push("SGD"), rates.pushes["SGD"].busy(task.parameters)
    exchange = site.out + push + site.back
    every = _every(exchange, task.compute + step)
    yield Forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{task.rule}(...), every={every})",
        {"compute": task.compute, "local step": step, "exchange": exchange / every},
        site.places(task.compute + step, push / every, memory / every, 1 / every),
        task.workers,
        site.alone,
        task.workers - 1,
    )


class _Site:
    """The workers of a task on their devices, as slow as the slowest of them.

    Attributes:
        data: bytes of the parameters, and of their gradients.
        out: seconds of gradients on their way to the host.
        back: seconds of parameters on their way to the device.
        step: seconds of an update on the device.
        alone: seconds of a batch of one worker that trains there by itself.
    """

    def __init__(self, task: Task, rates: Rates) -> None:
        links = [rates.link(device) for device in task.devices]
        self.data = FLOAT * task.parameters
        self.out = self.data / min(link.from_device for link in links)
        self.back = self.data / min(link.to_device for link in links)
        traffic = rates.pushes[task.rule].traffic * task.parameters
        self.step = traffic / (2 * min(link.copy for link in links))
        self.alone = task.compute + self.step
        self._task, self._rates = task, rates

    def push(self, rule: str) -> float:
        """Seconds of a push on the host, by one worker's threads."""
        threads = _threads(self._task, self._rates)
        return self._rates.pushes[rule].seconds(self._task.parameters, threads)

    def places(self, own: float, push: float, memory: float, trips: float) -> dict[str, float]:
        """What a batch keeps busy of what all share.

        Args:
            own: seconds on its device.
            push: seconds on the host.
            memory: seconds in which it needs all of the host's memory, besides transfers.
            trips: of the gradient to the host and of the parameters back, per batch.
        """
        task, rates = self._task, self._rates
        on_host = task.devices.count("cpu") / task.workers
        on_cores = push + on_host * (own + trips * (self.out + self.back))
        crowd = task.crowd / task.workers
        return {
            "cores": on_cores * _threads(task, rates) / rates.threads,
            "memory": memory + trips * self.data / rates.copy_together,
            "link": trips * max(self.out, self.back) * crowd,
            "device": own * crowd,
        }


def _every(exchange: float, step: float) -> int:
    """Steps between exchanges, a power of two, so that an exchange costs little beside them."""
    every = 1
    while every < MOST_LOCAL and exchange > SMALL * every * step:
        every *= 2
    return every
