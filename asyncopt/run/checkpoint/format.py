"""Format of a checkpoint: a safetensors file, and a JSON file with its checksum.

``checkpoint.json`` is ``{"sha256": <of the object that follows>, "checkpoint": {...}}``. The object
holds the format version, all data except tensors, and the size and SHA-256 of the tensor file and
of each tensor. A changed byte anywhere in either file is detected.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import safetensors.torch
import torch

from asyncopt import _version
from asyncopt.errors import CheckpointError

__all__ = ["MANIFEST", "TENSORS", "FormatError", "describe", "pack", "parse", "unpack"]

FORMAT_VERSION = 2
READABLE = (1, 2)  # 1: without the settings of loops and extra state of modules
MANIFEST = "checkpoint.json"
TENSORS = "tensors.safetensors"

_HEAD = b'{"sha256": "%s",\n"checkpoint": '
_TAIL = b"}\n"


class FormatError(CheckpointError):
    """A checkpoint of another format version. It is intact, so no older one is used instead."""


def pack(tensors: dict[str, torch.Tensor]) -> bytes:
    """The tensor file: a private copy of all tensors."""
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        return safetensors.torch.save(dense)
    except RuntimeError:  # some tensors share memory, which the format cannot express
        return safetensors.torch.save({name: tensor.clone() for name, tensor in dense.items()})


def describe(contents: dict[str, Any], packed: bytes) -> bytes:
    """The JSON file for ``contents``, which are plain JSON, and the tensor file."""
    body = {
        "format_version": FORMAT_VERSION,
        "asyncopt": _version.__version__,
        "torch": str(torch.__version__),
        **contents,
        "files": {TENSORS: {"bytes": len(packed), "sha256": _sha256(packed)}},
        "tensors": _tensors_of(packed),
    }
    return _frame(json.dumps(body, allow_nan=False, indent=1).encode())


def parse(data: bytes) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it is damaged.
        FormatError: it is intact, but has another format version.
    """
    body = data[len(_frame(b"")) - len(_TAIL) : -len(_TAIL)]
    if data != _frame(body):
        raise CheckpointError(f"{MANIFEST}: its checksum does not match; it is damaged")
    manifest: dict[str, Any] = json.loads(body)
    if manifest["format_version"] not in READABLE:
        raise FormatError(
            f"{MANIFEST}: expected format version {FORMAT_VERSION}, got "
            f"{manifest['format_version']}, written by asyncopt {manifest['asyncopt']}; load it "
            "with that version"
        )
    return manifest


def unpack(manifest: dict[str, Any], packed: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a tensor file, in private memory.

    Raises:
        CheckpointError: the file does not match the manifest.
    """
    expected = manifest["files"][TENSORS]
    found = {"bytes": len(packed), "sha256": _sha256(packed)}
    if found == expected and _tensors_of(packed) == manifest["tensors"]:
        return safetensors.torch.load(packed)
    raise CheckpointError(f"{TENSORS}: {_difference(manifest, packed)}")


def _difference(manifest: dict[str, Any], packed: bytes) -> str:
    size = manifest["files"][TENSORS]["bytes"]
    if len(packed) != size:
        return f"expected {size:,} bytes, got {len(packed):,}; it is damaged"
    try:
        found = _tensors_of(packed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return "its header is damaged"
    damaged = [name for name, each in manifest["tensors"].items() if found.get(name) != each]
    what = f"tensor {damaged[0]!r}" if damaged else "its header"
    return f"the checksum of {what} does not match; it is damaged"


def _tensors_of(packed: bytes) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and SHA-256 of the tensors, by the file's own header."""
    data = memoryview(packed)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    found = {}
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        begin, end = entry["data_offsets"]
        found[name] = {
            "dtype": entry["dtype"],
            "shape": entry["shape"],
            "sha256": _sha256(data[start + begin : start + end]),
        }
    return found


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _frame(body: bytes) -> bytes:
    return _HEAD % _sha256(body).encode() + body + _TAIL
