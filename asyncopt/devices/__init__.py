"""Workers whose model is a replica on a device: a GPU, or the host for what a GPU would do."""

from asyncopt.devices.names import check_devices
from asyncopt.devices.push import Log
from asyncopt.devices.station import Station

__all__ = ["Log", "Station", "check_devices"]
