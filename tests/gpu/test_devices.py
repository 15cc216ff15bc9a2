"""Errors of a build without CUDA kernels, and parameters on unsupported devices."""

from __future__ import annotations

import pytest
import torch

import asyncopt
from asyncopt._install import rebuild
from asyncopt.gpu import unavailable
from asyncopt.optim.checks import check_device


def test_a_build_without_cuda_names_what_is_missing() -> None:
    reason = unavailable()
    if reason is not None:
        assert "nvcc" in reason
        assert rebuild() in reason


def test_mixed_devices() -> None:
    params = [torch.ones(2), torch.ones(2), torch.ones(2, device="meta")]
    with pytest.raises(ValueError, match=r"params\[2\]: expected a tensor on cpu.*got one on meta"):
        check_device(params)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif(unavailable() is not None, reason="the build has no CUDA kernels")
def test_without_a_driver() -> None:
    """A failed call raises an error that names the device, the call and the remedy."""
    from asyncopt import _cuda

    with pytest.raises(asyncopt.DeviceError, match=r"cuda:0: cuda\w+: cudaError\w+") as info:
        _cuda.open(0)
    assert "driver" in str(info.value)
