"""A program that launches workers and can be killed; run by test_parent.py, never imported."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from asyncopt.run import Worker, launch
from asyncopt.run.observe import RunView


def announce_and_wait(worker: Worker) -> None:
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(60)


def do_nothing(worker: Worker) -> None: ...


class Witness:
    """Print how the run ended, after all workers are gone."""

    interval = 60.0

    def start(self, view: RunView) -> None: ...

    def tick(self, now: float) -> None: ...

    def end(self, error: BaseException | None) -> None:
        print(f"ended: {type(error).__name__}", flush=True)


def observers(*args: Any) -> Iterator[Witness]:
    yield Witness()


if __name__ == "__main__":
    if sys.argv[1:] == ["after a thread"]:
        thread = threading.Thread(target=launch, args=(do_nothing,))
        thread.start()
        thread.join()
    try:
        with mock.patch("asyncopt.run.launch._observers", observers):
            launch(announce_and_wait, workers=2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
