"""The modes of a training, each with the phases of a batch in it."""

from __future__ import annotations

from collections.abc import Iterator

from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.plan import Training
from asyncopt.studies.diagnosis.rates import FLOAT, Rates

BACKWARD = 2 / 3  # the part of computing that is backward, beside which gradients can travel
SMALL = 0.05  # of a step: an exchange of local steps that costs no more is rare enough
MOST_LOCAL = 64  # steps between exchanges; more of them change the training
COPIES = 4  # of all parameters, in an exchange on the host: the difference, the start, both ways

UNHIDDEN, OVERLAPPED = "host store, nothing hidden", "host store, overlapped"
LATE = "host store, overlapped, one step late"


def forecasts(training: Training, rates: Rates) -> tuple[Forecast, ...]:
    """Every mode that `training` can be trained in."""
    return tuple(
        _on_devices(training, rates) if training.devices else _on_the_host(training, rates)
    )


def _on_the_host(training: Training, rates: Rates) -> Iterator[Forecast]:
    """In place, in the memory of a store; then by copies of the model."""
    workers, size, threads = training.workers, training.parameters, _threads(training, rates)
    rule, plain = rates.pushes[training.rule], rates.pushes["SGD"]
    push, memory = rule.seconds(size, threads), rule.busy(size)

    def forecast(
        mode: str, how: str, phases: dict[str, float], places: dict[str, float]
    ) -> Forecast:
        """Every phase of a worker keeps its threads busy."""
        cores = sum(phases.values()) * threads / rates.threads
        return Forecast(
            problem="modes",
            mode=mode,
            how=how,
            phases=phases,
            places={"cores": cores, **places},
            workers=workers,
            alone=training.compute + push,
        )

    phases = {"compute": training.compute, "push": push}
    yield forecast(
        "in place, lock-free", f'{training.rule}(..., sync="hogwild")', phases, {"memory": memory}
    )
    yield forecast(
        "in place, one lock",
        f'{training.rule}(..., sync="mutex")',
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
            {"compute": training.compute, "all-reduce": reduce, "step": step},
            {},
        ).in_step()
    exchange = plain.seconds(size, threads) + COPIES * FLOAT * size / rates.copy
    meanwhile = plain.busy(size) + COPIES * FLOAT * size / rates.copy_together
    every = _every(exchange, training.compute + push)
    yield forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{training.rule}(...), every={every})",
        {"compute": training.compute, "local step": push, "exchange": exchange / every},
        {"memory": memory + meanwhile / every},
    )


def _on_devices(training: Training, rates: Rates) -> Iterator[Forecast]:
    """Through a store on the host, as `launch` with devices does; then by copies of the model."""
    devices = _Devices(training, rates)
    push, memory = (
        devices.push(training.rule),
        rates.pushes[training.rule].busy(training.parameters),
    )
    transfer = {"gradients out": devices.out, "push": push, "parameters in": devices.back}
    places = devices.places(training.compute, push, memory, 1.0)
    # Chunk by chunk, gradients leave while others are pushed and others come back.
    trip = max(transfer.values())

    def forecast(
        mode: str, how: str, phases: dict[str, float], places: dict[str, float]
    ) -> Forecast:
        return Forecast(
            problem="modes",
            mode=mode,
            how=how,
            phases={"compute": training.compute, **phases},
            places=places,
            workers=training.workers,
            alone=training.compute + devices.step,
        )

    def beyond(hidden: float) -> dict[str, float]:
        """The part of the trip that is not hidden."""
        return {"transfer, not hidden": max(0.0, trip - hidden)}

    listed = f"devices=[{', '.join(map(repr, training.devices))}]"
    yield forecast(UNHIDDEN, "", transfer, places)
    yield forecast(
        OVERLAPPED, f"launch(..., {listed})", beyond(BACKWARD * training.compute), places
    )
    late = beyond(training.compute)
    yield forecast(LATE, f"launch(..., {listed}, lag=1)", late, places).later(1)
    if training.crowd == training.workers:
        yield forecast(
            "in place, on the device",
            f'{training.rule}(..., sync="hogwild") of parameters on {training.devices[0]}',
            {"step": devices.step},
            devices.places(training.compute + devices.step, 0.0, 0.0, 0.0),
        )
    if training.crowd <= 1:  # NCCL takes one worker per device, and hides behind backward
        reduce = max(0.0, devices.reduce - (0.0 if devices.hosts else BACKWARD * training.compute))
        yield forecast(
            "synchronous data parallel",
            "torch DistributedDataParallel",
            {"all-reduce": reduce, "step": devices.step},
            devices.places(training.compute + reduce + devices.step, 0.0, 0.0, 0.0),
        ).in_step()
    push, memory = devices.push("SGD"), rates.pushes["SGD"].busy(training.parameters)
    exchange = devices.out + push + devices.back
    every = _every(exchange, training.compute + devices.step)
    yield forecast(
        f"local steps, every={every}",
        f"LocalSteps(torch.optim.{training.rule}(...), every={every})",
        {"local step": devices.step, "exchange": exchange / every},
        devices.places(training.compute + devices.step, push / every, memory / every, 1 / every),
    )


class _Devices:
    """The workers of a training on their devices, as slow as the slowest of them.

    Attributes:
        hosts: the part of the workers that compute on the processor.
        out: seconds of gradients on their way to the host.
        back: seconds of parameters on their way to the device.
        reduce: seconds until gradients are summed in all workers, where nothing hides them.
        step: seconds of an update on the device.
    """

    def __init__(self, training: Training, rates: Rates) -> None:
        links = [rates.link(device) for device in training.devices]
        self._task, self._rates, self._data = training, rates, FLOAT * training.parameters
        self.hosts = training.devices.count("cpu") / training.workers
        self.out = self._data / min(link.from_device for link in links)
        self.back = self._data / min(link.to_device for link in links)
        # Without access to each other, devices send through the host.
        rate = rates.reduce if self.hosts else rates.peer
        through = self.out + self.back if rate is None else self._data / rate
        self.reduce = _ring(training.workers) * through
        traffic = rates.pushes[training.rule].traffic * training.parameters
        self.step = traffic / (2 * min(link.copy for link in links))

    def push(self, rule: str) -> float:
        """Seconds of a push on the host, by one worker's threads."""
        threads = _threads(self._task, self._rates)
        return self._rates.pushes[rule].seconds(self._task.parameters, threads)

    def places(self, own: float, push: float, memory: float, trips: float) -> dict[str, float]:
        """Seconds that a batch keeps each shared place busy.

        Args:
            own: seconds on its device.
            push: seconds on the host.
            memory: seconds in which it needs all of the host's memory, besides transfers.
            trips: of the gradient to the host and of the parameters back, per batch.
        """
        training, rates = self._task, self._rates
        on_cores = push + self.hosts * (own + trips * (self.out + self.back))
        crowd = training.crowd / training.workers
        return {
            "cores": on_cores * _threads(training, rates) / rates.threads,
            "memory": memory + trips * self._data / rates.copy_together,
            "link": trips * max(self.out, self.back) * crowd,
            "device": own * crowd,
        }


def _threads(training: Training, rates: Rates) -> int:
    """Threads of each worker, as `launch` divides them."""
    return max(1, rates.threads // training.workers)


def _ring(workers: int) -> float:
    """Sizes of the summed gradient that each worker sends, and receives."""
    return 2 * (workers - 1) / workers


def _every(exchange: float, step: float) -> int:
    """Steps between exchanges, a power of two, so that an exchange costs little beside them."""
    every = 1
    while every < MOST_LOCAL and exchange > SMALL * every * step:
        every *= 2
    return every
