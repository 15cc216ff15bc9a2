"""The training that `asyncopt doctor` is asked about."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_PARAMETERS = 10**12
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True)
class Task:
    """A model and who trains it.

    Attributes:
        parameters: of float32, with dense gradients.
        compute: seconds that one worker, alone, takes for one batch forward and backward, with the
            threads that it will have.
        workers: how many.
        rule: of the updates.
        devices: where each worker computes; none: in place, in the memory of the store.
    """

    parameters: int
    compute: float
    workers: int
    rule: str
    devices: tuple[str, ...] = ()

    @property
    def on_cuda(self) -> bool:
        """Whether any worker is on a GPU."""
        return any(device != "cpu" for device in self.devices)

    @property
    def crowd(self) -> int:
        """Workers on the GPU that has the most of them; 0 without one."""
        return max(Counter(each for each in self.devices if each != "cpu").values(), default=0)

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def parse_parameters(text: str) -> int:
    """A number of parameters: ``25M``, ``1.5e6``, ``7B``.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([0-9.]+(?:e[+]?[0-9]+)?)([kmgb]?)", text.strip().lower())
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
    """Seconds of computing.

    Raises:
        ValueError: they are not above 0.
    """
    if not 0 < milliseconds < math.inf:
        raise ValueError(f"expected milliseconds > 0, got {milliseconds:g}")
    return milliseconds / 1e3


def parse_devices(text: str, there: Sequence[str]) -> tuple[str, ...]:
    """A device for each worker: ``cpu,cuda:0``.

    Args:
        text: names with commas.
        there: CUDA devices of this machine.

    Raises:
        ValueError: one is no device, or not of this machine.
    """
    known = ("cpu", *there)
    found = tuple("cuda:0" if name.strip() == "cuda" else name.strip() for name in text.split(","))
    for name in found:
        if name not in known:
            raise ValueError(f"expected {' or '.join(known)}, which are here, got {name!r}")
    return found


def count_workers(workers: int | None, devices: Sequence[str], usable_cores: int) -> int:
    """As many as there are devices, or what was asked for, or as many as there are cores.

    Raises:
        ValueError: `workers` and `devices` differ.
    """
    if workers is not None and devices and workers != len(devices):
        raise ValueError(
            f"expected a device for each of {workers} workers, got {len(devices)}; "
            "leave --workers out"
        )
    return workers or len(devices) or usable_cores
