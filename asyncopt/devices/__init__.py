"""Workers whose model is a replica on a device: a GPU, or the host in the same way."""

from asyncopt.devices.lanes import Span
from asyncopt.devices.names import check_devices
from asyncopt.devices.push import Log, Spans
from asyncopt.devices.station import Station

__all__ = ["Log", "Span", "Spans", "Station", "check_devices"]
