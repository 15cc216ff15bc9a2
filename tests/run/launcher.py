"""A program that launches workers and can be killed; run by test_parent.py, never imported."""

from __future__ import annotations

import os
import sys
import time

from asyncopt.run import Worker, launch


def announce_and_wait(worker: Worker) -> None:
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(60)


if __name__ == "__main__":
    try:
        launch(announce_and_wait, workers=2)
    except KeyboardInterrupt:
        sys.exit("interrupted")
