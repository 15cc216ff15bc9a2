"""Path to the part of an object that cannot be pickled, for messages."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch

from asyncopt.errors import AsyncoptError
from asyncopt.run.payload import unpicklable

__all__ = ["naming", "reason"]

MOST = 10_000  # parts of one object that are searched


@contextlib.contextmanager
def naming(parts: Mapping[str, object], remedy: str) -> Iterator[None]:
    """Context for pickling ``parts``: an error becomes a TypeError that names the part."""
    try:
        yield
    except (OSError, MemoryError, AsyncoptError):
        raise
    except Exception as error:
        found = unpicklable(parts)
        name, part = (", ".join(parts), tuple(parts.values())) if found is None else found
        kind = getattr(part, "__qualname__", None) or f"an object of type {type(part).__name__}"
        raise TypeError(
            f"{name}: expected an object that pickle can send to another process, got {kind} "
            f"({reason(part, error)}); {remedy}"
        ) from error


def reason(part: object, error: Exception) -> str:
    """Why an object cannot be pickled: the error, after the path to the innermost part at fault.

    Each step of the path goes to the first part that cannot be pickled by itself, as in
    ``closure variable cache.lock: cannot pickle '_thread.lock' object``.
    """
    path, seen = "", {id(part)}
    while (found := _first_at_fault(part)) is not None:
        name, part = found
        if id(part) in seen:
            break
        seen.add(id(part))
        path += name if not path or name.startswith((".", "[")) else f", {name}"
    return f"{path}: {error}" if path else str(error)


def _first_at_fault(part: object) -> tuple[str, object] | None:
    try:
        return unpicklable(dict(islice(_parts(part), MOST)))
    except Exception:  # raised by its own __reduce_ex__, so this part is at fault
        return None


def _parts(part: object) -> Iterator[tuple[str, object]]:
    """Names and values of the parts of an object that are pickled with it."""
    if isinstance(part, types.FunctionType):
        found = inspect.getclosurevars(part)
        yield from ((f"closure variable {name}", value) for name, value in found.nonlocals.items())
        yield from ((f"global variable {name}", value) for name, value in found.globals.items())
        yield "its defaults", part.__defaults__
        yield "its keyword defaults", part.__kwdefaults__
    elif isinstance(part, types.MethodType):
        yield ".__self__", part.__self__
        yield ".__func__", part.__func__
    elif isinstance(part, functools.partial):
        yield from ((f".{name}", getattr(part, name)) for name in ("func", "args", "keywords"))
    elif isinstance(part, type):
        yield from ((f".{name}", value) for name, value in vars(part).items())
    elif isinstance(part, dict):
        yield from ((f"[{key!r:.80}]", value) for key, value in part.items())
    elif isinstance(part, list | tuple | set | frozenset):
        yield from ((f"[{i}]", value) for i, value in enumerate(part))
    elif not _is_plain(part):
        yield from _reduced(part)


def _is_plain(part: object) -> bool:
    """True for tensors and non-object arrays, which are skipped: copying may raise SIGBUS."""
    return isinstance(part, torch.Tensor) or (
        isinstance(part, np.ndarray) and not part.dtype.hasobject
    )


def _reduced(part: object) -> Iterator[tuple[str, object]]:
    """Names and values of the parts that ``__reduce_ex__`` of an object returns."""
    reduced: Any = part.__reduce_ex__(4)
    if isinstance(reduced, str):
        return
    arguments = reduced[1]
    state, items, pairs = (reduced[i] if i < len(reduced) else None for i in (2, 3, 4))
    if isinstance(state, dict):
        yield from ((f".{name}", value) for name, value in state.items())
    elif isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # slots
        yield from ((f".{name}", value) for name, value in ((state[0] or {}) | state[1]).items())
    else:
        yield "its state", state
    yield from ((f"[{i}]", value) for i, value in enumerate(items or ()))
    yield from ((f"[{key!r:.80}]", value) for key, value in pairs or ())
    yield from ((f"argument {i} of its constructor", value) for i, value in enumerate(arguments))
