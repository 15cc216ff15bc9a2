"""A device in host memory, behind tensors that are on the CPU as far as torch knows."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from asyncopt.gpu import Device

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"

_CPU = 1  # DLPack's number


@pytest.fixture
def host_device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Optimizers made in the test step on it."""
    library = BUILD / "host_device.so"
    if not library.exists():
        pytest.skip(f"{library} is not there; make test-cpp builds it")
    make = ctypes.CDLL(str(library)).host_device
    make.restype = ctypes.c_void_p
    device = Device(make(), _CPU, 0)
    monkeypatch.setattr("asyncopt.optim.stepping.device_of", lambda _: device)
    return device
