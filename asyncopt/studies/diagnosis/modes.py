"""The modes that a training can have, each with what a batch takes in it."""

from __future__ import annotations

from collections.abc import Iterator

from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.rates import FLOAT, Rates
from asyncopt.studies.diagnosis.task import Task

BACKWARD = 2 / 3  # the part of computing that is backward, beside which gradients can travel
SMALL = 0.05  # of a step: an exchange of local steps that costs no more is rare enough
MOST_LOCAL = 64  # steps between exchanges; more of them change the training
COPIES = 4  # of all parameters, in an exchange on the host: the difference, the start, both ways

APART, OVERLAPPED = "host store, nothing hidden", "host store, overlapped"
LATE = "host store, overlapped, one step late"


def forecasts(task: Task, rates: Rates) -> tuple[Forecast, ...]:
    """Every mode that `task` can be trained in."""
    return tuple(_on_devices(task, rates) if task.devices else _on_the_host(task, rates))


def _on_the_host(task: Task, rates: Rates) -> Iterator[Forecast]:
    """In place, in the memory of a store; then by copies of the model."""
    workers, size, threads = task.workers, task.parameters, _threads(task, rates)
    rule, plain = rates.pushes[task.rule], rates.pushes["SGD"]
    push, memory = rule.seconds(size, threads), rule.busy(size)

    def forecast(
        mode: str, how: str, phases: dict[str, float], places: dict[str, float]
    ) -> Forecast:
        """Whatever a worker does keeps its threads busy."""
        cores = sum(phases.values()) * threads / rates.threads
        return Forecast(
            mode=mode,
            how=how,
            phases=phases,
            places={"cores": cores, **places},
            workers=workers,
            alone=task.compute + push,
        )

    phases = {"compute": task.compute, "push": push}
    yield forecast(
        "in place, lock-free", f'{task.rule}(..., sync="hogwild")', phases, {"memory": memory}
    )
    yield forecast(
        "in place, one lock",
        f'{task.rule}(..., sync="mutex")',
        phases,
        {"memory": memory, "lock": push},
    )
    if rates.reduce is not None:
        # More workers than cores sum up no faster, and all step their copies at once.
        crowding = max(1.0, workers / rates.threads)
        reduce = crowding * _ring(workers) * FLOAT * size / rates.reduce
        step = max(push, workers * memory)
        yield forecast(
            "synchronous data parallel",
            "torch DistributedDataParallel with gloo",
            {"compute": task.compute, "all-reduce": reduce, "step": step},
            {},
        ).in_step()
    exchange = plain.seconds(size, threads) + COPIES * FLOAT * size / rates.copy
    meanwhile = plain.busy(size) + COPIES * FLOAT * size / rates.copy_together
    every = _every(exchange, task.compute + push)
    yield forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{task.rule}(...), every={every})",
        {"compute": task.compute, "local step": push, "exchange": exchange / every},
        {"memory": memory + meanwhile / every},
    )


def _on_devices(task: Task, rates: Rates) -> Iterator[Forecast]:
    """Through a store on the host, as `launch` with devices does; then by copies of the model."""
    site = _Site(task, rates)
    push, memory = site.push(task.rule), rates.pushes[task.rule].busy(task.parameters)
    transfer = {"gradients out": site.out, "push": push, "parameters in": site.back}
    places = site.places(task.compute, push, memory, 1.0)
    # Chunk by chunk, gradients leave while others are pushed and others come back.
    trip = max(transfer.values())

    def forecast(
        mode: str, how: str, phases: dict[str, float], places: dict[str, float]
    ) -> Forecast:
        return Forecast(
            mode=mode,
            how=how,
            phases={"compute": task.compute, **phases},
            places=places,
            workers=task.workers,
            alone=task.compute + site.step,
        )

    def beyond(hidden: float) -> dict[str, float]:
        """What shows of the trip."""
        return {"transfer, not hidden": max(0.0, trip - hidden)}

    devices = f"devices=[{', '.join(map(repr, task.devices))}]"
    yield forecast(APART, "", transfer, places)
    yield forecast(OVERLAPPED, f"launch(..., {devices})", beyond(BACKWARD * task.compute), places)
    late = beyond(task.compute)
    yield forecast(LATE, f"launch(..., {devices}, lag=1)", late, places).later(1)
    if task.crowd == task.workers:
        yield forecast(
            "in place, on the device",
            f'{task.rule}(..., sync="hogwild") of parameters on {task.devices[0]}',
            {"step": site.step},
            site.places(task.compute + site.step, 0.0, 0.0, 0.0),
        )
    if task.crowd <= 1:  # NCCL takes one worker per device, and hides behind backward
        reduce = max(0.0, site.reduce - (0.0 if site.hosts else BACKWARD * task.compute))
        yield forecast(
            "synchronous data parallel",
            "torch DistributedDataParallel",
            {"all-reduce": reduce, "step": site.step},
            site.places(task.compute + reduce + site.step, 0.0, 0.0, 0.0),
        ).in_step()
    push, memory = site.push("SGD"), rates.pushes["SGD"].busy(task.parameters)
    exchange = site.out + push + site.back
    every = _every(exchange, task.compute + site.step)
    yield forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{task.rule}(...), every={every})",
        {"local step": site.step, "exchange": exchange / every},
        site.places(task.compute + site.step, push / every, memory / every, 1 / every),
    )


class _Site:
    """The workers of a task on their devices, as slow as the slowest of them.

    Attributes:
        hosts: the part of the workers that compute on the processor.
        out: seconds of gradients on their way to the host.
        back: seconds of parameters on their way to the device.
        reduce: seconds until gradients are summed in all workers, where nothing hides them.
        step: seconds of an update on the device.
    """

    def __init__(self, task: Task, rates: Rates) -> None:
        links = [rates.link(device) for device in task.devices]
        self._task, self._rates, self._data = task, rates, FLOAT * task.parameters
        self.hosts = task.devices.count("cpu") / task.workers
        self.out = self._data / min(link.from_device for link in links)
        self.back = self._data / min(link.to_device for link in links)
        # Where devices do not reach each other, what is sent goes to the host and comes back.
        rate = rates.reduce if self.hosts else rates.peer
        through = self.out + self.back if rate is None else self._data / rate
        self.reduce = _ring(task.workers) * through
        traffic = rates.pushes[task.rule].traffic * task.parameters
        self.step = traffic / (2 * min(link.copy for link in links))

    def push(self, rule: str) -> float:
        """Seconds of a push on the host, by one worker's threads."""
        threads = _threads(self._task, self._rates)
        return self._rates.pushes[rule].seconds(self._task.parameters, threads)

    def places(self, own: float, push: float, memory: float, trips: float) -> dict[str, float]:
        """For how long a batch keeps busy what all share.

        Args:
            own: seconds on its device.
            push: seconds on the host.
            memory: seconds in which it needs all of the host's memory, besides transfers.
            trips: of the gradient to the host and of the parameters back, per batch.
        """
        task, rates = self._task, self._rates
        on_cores = push + self.hosts * (own + trips * (self.out + self.back))
        crowd = task.crowd / task.workers
        return {
            "cores": on_cores * _threads(task, rates) / rates.threads,
            "memory": memory + trips * self._data / rates.copy_together,
            "link": trips * max(self.out, self.back) * crowd,
            "device": own * crowd,
        }


def _threads(task: Task, rates: Rates) -> int:
    """Of each worker, as `launch` shares them out."""
    return max(1, rates.threads // task.workers)


def _ring(workers: int) -> float:
    """How often each worker sends, and receives, the size of what all of them sum up."""
    return 2 * (workers - 1) / workers


def _every(exchange: float, step: float) -> int:
    """Steps between exchanges, a power of two, so that an exchange costs little beside them."""
    every = 1
    while every < MOST_LOCAL and exchange > SMALL * every * step:
        every *= 2
    return every
