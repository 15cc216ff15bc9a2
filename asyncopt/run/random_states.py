"""The random states of a process as bytes: torch's, numpy's and Python's global generators.

Of torch's on CUDA devices, that of the current one, if the process uses any.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from asyncopt.errors import CheckpointError

__all__ = ["capture", "restore"]


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
    """Give the global generators the states that :func:`capture` saw.

    Raises:
        CheckpointError: ``data`` does not hold them; nothing was changed.
    """
    try:
        state = json.loads(data)
        torch_state = torch.from_numpy(_array(state["torch"], np.uint8))
        cuda_state = torch.from_numpy(_array(state.get("cuda", ""), np.uint8))
        algorithm, key, *rest = state["numpy"]
        numpy_state = (algorithm, _array(key, np.uint32), *rest)
        version, words, gauss_next = state["python"]
        python_state = (version, tuple(map(int, _array(words, np.uint32))), gauss_next)
        # Tried on generators of their own first.
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
