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


def host_library() -> ctypes.CDLL:
    """The library that contains the device, with functions for the tests."""
    return ctypes.CDLL(str(BUILD / "host_device.so"))


def open_host_device() -> Device:
    """The device, in this process."""
    make = host_library().host_device
    make.restype = ctypes.c_void_p
    return Device(make(), _CPU, 0)


@pytest.fixture
def host_device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Optimizers made in the test step on it."""
    if not (BUILD / "host_device.so").exists():
        pytest.skip(f"{BUILD}/host_device.so is not there; make test-cpp builds it")
    device = open_host_device()
    monkeypatch.setattr("asyncopt.optim.parameters.device_of", lambda _: device)
    return device
