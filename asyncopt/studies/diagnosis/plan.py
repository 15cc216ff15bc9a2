"""Plan, planned training and rows of the doctor."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asyncopt.studies.options import is_number, several
from asyncopt.studies.rows import Row
from asyncopt.studies.study import Plan

MOST_PARAMETERS = 10**12
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True)
class Training:
    """A planned training of a model.

    Attributes:
        parameters: of float32, with dense gradients.
        compute: seconds that one worker, alone, takes for one batch forward and backward, with the
            threads that it will have.
        workers: their number.
        rule: of the updates.
        devices: where each worker computes; none: in place, in the memory of the store.
    """

    parameters: int
    compute: float
    workers: int
    rule: str
    devices: tuple[str, ...] = ()

    @property
    def crowd(self) -> int:
        """Workers on the GPU that has the most of them; 0 without one."""
        return max(Counter(each for each in self.devices if each != "cpu").values(), default=0)


@dataclass(frozen=True)
class Examination(Plan):
    """Options of the doctor. `parameters` None: no training is planned.

    `workers` None: as many as devices or cores.
    """

    parameters: int | None
    step_ms: float | None
    workers: int | None
    devices: tuple[str, ...]
    rule: str

    def training(self, usable_cores: int) -> Training | None:
        """The planned training."""
        if self.parameters is None or self.step_ms is None:
            return None
        return Training(
            parameters=self.parameters,
            compute=self.step_ms / 1e3,
            workers=self.workers or len(self.devices) or usable_cores,
            rule=self.rule,
            devices=self.devices,
        )


@dataclass(frozen=True)
class RateRow(Row):
    """A copy, push or transfer; `parameters` and seconds are of a push, None otherwise.

    Rates are bytes per second, on one thread and on all; None: not measured.
    """

    what: str
    parameters: int | None
    seconds: float | None
    seconds_together: float | None
    bytes_per_second: float
    bytes_per_second_together: float | None


def parse_parameters(text: str | int) -> int:
    """A number of parameters: ``25M``, ``1.5e6``, ``7B``.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9.]+(?:e[+]?[0-9]+)?)([kmgb]?)", str(text).strip().lower())
    try:
        count = float(found[1]) * _UNITS[found[2]] if found else math.nan
    except ValueError:
        count = math.nan
    if not 1 <= count <= MOST_PARAMETERS:
        raise ValueError(
            f"expected a number from 1 to {MOST_PARAMETERS:.0e}, like 25M, got {text!r}"
        )
    return round(count)


def parse_step(milliseconds: float) -> float:
    """Milliseconds of computing.

    Raises:
        ValueError: they are not above 0.
    """
    if not (is_number(milliseconds) and 0 < milliseconds < math.inf):
        raise ValueError(f"expected milliseconds > 0, got {milliseconds!r}")
    return milliseconds


def parse_devices(devices: str | Iterable[str], there: Sequence[str]) -> tuple[str, ...]:
    """A device for each worker, of text like ``cpu,cuda:0`` or of names.

    Args:
        devices: as the user gave them.
        there: CUDA devices of this machine.

    Raises:
        ValueError: one is no device, or not of this machine.
    """
    known = ("cpu", *there)
    parts = devices.split(",") if isinstance(devices, str) else several(devices)
    names = [str(part).strip() for part in parts]
    found = tuple("cuda:0" if name == "cuda" else name for name in names)
    for name in found:
        if name not in known:
            raise ValueError(f"no {name!r} on this machine; available: {', '.join(known)}")
    return found


def check_workers(workers: int | None, devices: Sequence[str]) -> None:
    """Raise ValueError where the numbers of `workers` and `devices` differ."""
    if workers is not None and devices and workers != len(devices):
        raise ValueError(
            f"expected a device for each of {workers} workers, got {len(devices)}; "
            "leave --workers out"
        )
