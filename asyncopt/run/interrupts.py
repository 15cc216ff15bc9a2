"""Ctrl-C and SIGTERM during a run: recorded on arrival, raised where the run can handle them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import connection
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts", "wait"]


class _Terminated(BaseException):
    """SIGTERM has been received."""


class Interrupts:
    """Context in which a first Ctrl-C or SIGTERM waits for ``check`` to raise it.

    An exception from a signal handler can occur between any two instructions, for example between
    the start of a process and the record of its id. Therefore the handlers only make this object's
    descriptor readable. A second signal is raised at once, wherever the run is. On exit, the
    previous handlers are restored, and after a SIGTERM the process ends by that same signal.

    It acts only in the main thread, where Python handles signals, and only on signals with Python's
    default handlers; other handlers are left in place.
    """

    def __init__(self) -> None:
        self._previous: dict[int, signal.Handlers] = {}
        self._came = 0  # the signal that check() has not raised yet
        self._count = 0
        self._outer: Interrupts | None = None

    def __enter__(self) -> Interrupts:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            self._outer, _Innermost.context = _Innermost.context, self
            own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, handler in own.items():
                if signal.getsignal(number) == handler:
                    self._previous[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.check()  # a signal since the last check
        except _Terminated:
            kind = _Terminated
        finally:
            if _Innermost.context is self:
                _Innermost.context = self._outer
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            os.close(self._wake)
        if kind is _Terminated:
            signal.raise_signal(signal.SIGTERM)

    def fileno(self) -> int:
        """Descriptor that is readable once a signal has been received."""
        return self._wake

    def check(self) -> None:
        """Raise the recorded signal, once.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        came, self._came = self._came, 0
        if came:
            os.eventfd_read(self._wake)
            raise _exception(came)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise _exception(number)
        self._came = number
        os.eventfd_write(self._wake, 1)


class _Innermost:
    """The context that the main thread has entered last."""

    context: Interrupts | None = None


def wait(objects: Sequence[Any], timeout: float) -> list[Any]:
    """Wait as ``multiprocessing.connection.wait`` does, but end early at a recorded signal.

    Call it only where an exception is safe.

    Raises:
        KeyboardInterrupt: Ctrl-C, recorded by the main thread's innermost :class:`Interrupts`.
    """
    noting = _Innermost.context
    if noting is None or threading.current_thread() is not threading.main_thread():
        return connection.wait(objects, timeout)
    ready: list[Any] = connection.wait([*objects, noting.fileno()], timeout)
    noting.check()
    return ready


def _exception(number: int) -> BaseException:
    return _Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
