"""The settings of a run: CPUs and devices, deadlines, and handling of lost workers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from asyncopt._checks import whole
from asyncopt._limits import allowed_cpus, usable_cpus
from asyncopt.devices import check_devices
from asyncopt.run.checkpoint.checkpoint import Checkpoints
from asyncopt.run.delays import Delay, check_delay

__all__ = ["FAILURES", "Plan"]

FAILURES = ("raise", "continue", "restart")


@dataclass(frozen=True)
class Plan:
    """The checked settings of a run.

    Attributes:
        workers: number of workers.
        threads: torch threads of each worker.
        pin: whether each worker is bound to CPUs of its own.
        timeout: seconds from the start barrier to the last return; may be infinite.
        start_timeout: seconds until all workers, or a replacement, stand at the start barrier.
        allowed: the CPUs that this process may use, ascending.
        on_error: reaction to a worker that ends before ``fn`` returns; one of ``FAILURES``.
        retries: maximum number of replacements of each worker.
        stall_timeout: seconds without progress after which a worker is reported; may be infinite.
        max_staleness: turns of others that may end between a worker's pull and its push; None: any.
        delay: injected delay before each push; None: none.
        checkpoint: where and how often to write checkpoints; None: no checkpoints.
        resume: whether to begin with the newest checkpoint.
        view: whether to show the run in the terminal.
        log_dir: directory for TensorBoard; None: none.
        trace: file for a Chrome trace; None: none.
        devices: the workers' devices in the order of ranks; None: they train in place, on the host.
        lag: how many of its own pushes a worker with a device may be behind.
        seed: root of the workers' random streams; None: drawn from torch's global generator.
        preload: modules imported once for all worker processes.
    """

    workers: int
    threads: int
    pin: bool
    timeout: float
    start_timeout: float
    allowed: tuple[int, ...]
    on_error: str = "raise"
    retries: int = 3
    stall_timeout: float = math.inf
    max_staleness: int | None = None
    delay: Delay | None = None
    checkpoint: Checkpoints | None = None
    resume: bool = False
    view: bool = False
    log_dir: str | None = None
    trace: str | None = None
    devices: tuple[torch.device, ...] | None = None
    lag: int = 0
    seed: int | None = None
    preload: tuple[str, ...] = ()

    @classmethod
    def check(
        cls,
        *,
        workers: Any = None,
        threads_per_worker: Any = None,
        pin: bool = False,
        timeout: Any = None,
        start_timeout: Any = 300.0,
        on_error: Any = "raise",
        retries: Any = 3,
        stall_timeout: Any = None,
        max_staleness: Any = None,
        delay: Any = None,
        checkpoint: Any = None,
        resume: Any = False,
        view: Any = False,
        log_dir: Any = None,
        trace: Any = None,
        devices: Any = None,
        lag: Any = 0,
        seed: Any = None,
        preload: Any = (),
    ) -> Plan:
        """Build a plan from what the user passed to ``launch``.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        found = None if devices is None else check_devices(devices)
        workers = _workers(workers, found)
        allowed = allowed_cpus()
        threads = (
            max(1, usable_cpus() // workers)
            if threads_per_worker is None
            else whole("threads_per_worker", threads_per_worker, 1)
        )
        if on_error not in FAILURES:
            names = ", ".join(map(repr, FAILURES))
            raise ValueError(f"on_error: expected one of {names}, got {on_error!r}")
        if resume and checkpoint is None:
            raise ValueError(
                "resume: expected checkpoint= to resume from, got None; name its directory there"
            )
        _check_lag(lag, found, max_staleness)
        return cls(
            workers=workers,
            threads=threads,
            pin=bool(pin),
            timeout=_seconds("timeout", timeout),
            start_timeout=_seconds("start_timeout", start_timeout),
            allowed=allowed,
            on_error=on_error,
            retries=whole("retries", retries, 0),
            stall_timeout=_seconds("stall_timeout", stall_timeout),
            max_staleness=(
                None if max_staleness is None else whole("max_staleness", max_staleness, 0)
            ),
            delay=check_delay(delay, workers),
            checkpoint=_checkpoints(checkpoint),
            resume=bool(resume),
            view=bool(view),
            log_dir=_path("log_dir", log_dir),
            trace=_path("trace", trace),
            devices=found,
            lag=lag,
            seed=None if seed is None else whole("seed", seed, 0),
            preload=_modules(preload),
        )

    def cpus(self, rank: int) -> tuple[int, ...]:
        """The CPUs to bind worker ``rank`` to, one per thread; () for no binding."""
        if not self.pin:
            return ()
        first = rank * self.threads
        return tuple(
            self.allowed[i % len(self.allowed)] for i in range(first, first + self.threads)
        )


WORKERS = 2  # default


def _workers(workers: Any, devices: tuple[torch.device, ...] | None) -> int:
    if workers is None:
        return WORKERS if devices is None else len(devices)
    count = whole("workers", workers, 1)
    if devices is not None and count != len(devices):
        raise ValueError(
            f"devices: expected one for each of {count} workers, got {len(devices)}; leave "
            "workers= out, or name a device as often as it has workers"
        )
    return count


def _check_lag(lag: Any, devices: tuple[torch.device, ...] | None, max_staleness: Any) -> None:
    if isinstance(lag, bool) or not isinstance(lag, int) or lag not in (0, 1):
        raise ValueError(f"lag: expected 0 or 1, got {lag!r}")
    if lag and devices is None:
        raise ValueError("lag: expected devices= with it, as workers in place have none, got None")
    if lag and max_staleness is not None:
        raise ValueError(
            f"lag: expected 0 with max_staleness={max_staleness}, whose turns begin with what the "
            "store holds then, got 1"
        )


def _modules(preload: Any) -> tuple[str, ...]:
    if isinstance(preload, str) or not isinstance(preload, Iterable):
        raise TypeError(
            f"preload: expected a list of module names, got {preload!r}; for one module write "
            "preload=['name']"
        )
    names = tuple(preload)
    for name in names:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split("."))):
            raise ValueError(
                f"preload: expected absolute module names such as 'package.module', got {name!r}"
            )
    return names


def _seconds(name: str, value: Any) -> float:
    """``value``, or infinity for None."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected seconds > 0, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name}: expected seconds > 0, got {value!r}")
    return float(value)


def _checkpoints(value: Any) -> Checkpoints | None:
    if value is None or isinstance(value, Checkpoints):
        return value
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"checkpoint: expected a path or asyncopt.Checkpoints, got {value!r}")
    return Checkpoints(value)


def _path(name: str, value: Any) -> str | None:
    """``value`` as text, or None."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name}: expected a path, got {value!r}")
    if not os.fspath(value):
        raise ValueError(f"{name}: expected a path, got ''")
    return str(os.fspath(value))
