"""The global random number generators of a process: torch's, numpy's and Python's.

A run has one root, a number. Each of its workers has a :class:`Stream` of that root. States as
bytes are for checkpoints; those of CUDA hold the generator of the current device, if the process
uses one.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asyncopt.errors import CheckpointError

__all__ = ["Stream", "capture", "draw_root", "restore"]


def draw_root() -> int:
    """The root of a new run: one number from torch's global generator, as in ``DataLoader``.

    ``torch.manual_seed`` determines it, and successive draws differ.
    """
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


@dataclass(frozen=True)
class Stream:
    """A random number stream of a root.

    Streams of different keys are independent, by the hash of ``numpy.random.SeedSequence``. (The
    CPU generator of torch uses 32 bits of its seed, so two of 10,000 streams have the same torch
    numbers with a probability of 1%.)

    Args:
        root: an integer >= 0; None: another one at each call of :meth:`enter`, from the system.
        key: which of the root's streams, integers >= 0. ``()`` is for draws that are the same in
            all workers of a run, ``(task,)`` for tasks of pools, folds and repeats of measurements,
            ``(rank, life)`` for workers of runs.
    """

    root: int | None
    key: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """The stream's first 64 bits: the seed of torch's generators, and of others if needed."""
        return int(self._words(2).view(np.uint64)[0])

    def enter(self) -> None:
        """Seed the global generators of torch, on all its devices, of numpy and of Python."""
        torch.manual_seed(self._seed())

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """Context in which the global generators of the CPU draw from this stream.

        On exit their states are restored. The generators of other devices are not changed.
        """
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
        torch_state = torch.get_rng_state()
        torch.default_generator.manual_seed(self._seed())
        try:
            yield
        finally:
            torch.set_rng_state(torch_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)

    def _seed(self) -> int:
        """Seed numpy's and Python's global generators; return the seed for torch's."""
        words = self._words(18)
        np.random.seed(words[2:10])  # noqa: NPY002 - the generator that user code may draw from
        random.seed(words[10:].tobytes())
        return int(words[:2].view(np.uint64)[0])

    def _words(self, count: int) -> npt.NDArray[Any]:
        sequence = np.random.SeedSequence(self.root, spawn_key=self.key)
        return sequence.generate_state(count, np.uint32)


def capture() -> bytes:
    """The states of the global generators, about 14 KB of JSON."""
    algorithm, key, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    version, words, gauss_next = random.getstate()
    state = {
        "torch": _text(torch.get_rng_state().numpy()),
        "numpy": [algorithm, _text(np.asarray(key)), position, has_gauss, gauss],
        "python": [version, _text(np.asarray(words, dtype=np.uint32)), gauss_next],
    }
    if torch.cuda.is_initialized():
        state["cuda"] = _text(torch.cuda.get_rng_state().numpy())
    return json.dumps(state).encode()


def restore(data: bytes) -> None:
    """Restore the states of the global generators from :func:`capture`.

    Raises:
        CheckpointError: ``data`` does not hold such states; nothing was changed.
    """
    try:
        state = json.loads(data)
        torch_state = torch.from_numpy(_array(state["torch"], np.uint8))
        cuda_state = torch.from_numpy(_array(state.get("cuda", ""), np.uint8))
        algorithm, key, *rest = state["numpy"]
        numpy_state = (algorithm, _array(key, np.uint32), *rest)
        version, words, gauss_next = state["python"]
        python_state = (version, tuple(map(int, _array(words, np.uint32))), gauss_next)
        # Tried on temporary generators first.
        torch.Generator().set_state(torch_state)
        np.random.RandomState().set_state(numpy_state)
        random.Random().setstate(python_state)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"random states: expected those of this torch, numpy and Python, got others ({error}); "
            "resume with the versions that wrote the checkpoint"
        ) from error
    torch.set_rng_state(torch_state)
    if cuda_state.numel() and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(cuda_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


def _text(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype).copy()
