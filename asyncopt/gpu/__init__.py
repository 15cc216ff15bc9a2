"""Parameters on GPUs: which devices there are kernels for, and what they cannot do."""

from asyncopt.gpu.devices import Device, device_of, refuse_capture, unavailable
from asyncopt.gpu.options import check_options

__all__ = ["Device", "check_options", "device_of", "refuse_capture", "unavailable"]
