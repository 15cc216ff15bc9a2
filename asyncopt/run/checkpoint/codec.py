"""Exact conversion of state dicts to JSON and back, for plain data only and without pickle.

Types that JSON lacks are written as ``{"!": kind, "of": what}``; tensors are referenced by name.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch

from asyncopt.errors import CheckpointError

__all__ = ["decode", "encode"]

_TAG = "!"


def encode(value: object, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Convert ``value`` to an object that ``json.dumps`` accepts.

    Args:
        value: None, numbers, strings, tensors, and lists, tuples, dicts and Counters of them.
        name: of the value, in error messages and as the prefix of its tensors' names.
        tensors: dict to which the tensors are added.

    Raises:
        CheckpointError: ``value`` contains another type; the message says where.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_TAG: "float", "of": repr(value)}
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach()
        return {_TAG: "tensor", "of": name}
    if isinstance(value, list | tuple):
        items = [encode(each, f"{name}.{i}", tensors) for i, each in enumerate(value)]
        return {_TAG: "tuple", "of": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        entries = [(k, encode(v, f"{name}.{k}", tensors)) for k, v in value.items()]
        if isinstance(value, Counter):
            return {_TAG: "counter", "of": entries}
        if all(isinstance(k, str) and k != _TAG for k in value):
            return dict(entries)
        return {
            _TAG: "dict",
            "of": [[encode(k, f"{name} (a key)", tensors), v] for k, v in entries],
        }
    raise CheckpointError(
        f"{name}: expected numbers, strings, tensors, and lists, tuples and dicts of them, got "
        f"{type(value).__name__}; leave it out of what is saved"
    )


def decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of :func:`encode`; removes its tensors from ``tensors``."""
    if isinstance(value, list):
        return [decode(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TAG)
    if kind is None:
        return {k: decode(v, tensors) for k, v in value.items()}
    of = value["of"]
    if kind == "tensor":
        return tensors[of]
    if kind == "float":
        return float(of)
    items = decode(of, tensors)
    if kind == "tuple":
        return tuple(items)
    entries = dict(items)
    return Counter(entries) if kind == "counter" else entries
