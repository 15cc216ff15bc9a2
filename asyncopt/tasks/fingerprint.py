"""Digests of functions and data that are equal in two processes if nothing has changed."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import struct
from collections.abc import Callable, Iterable
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncopt.tasks.user_code import find_named, is_library, referred, version_of

__all__ = ["fingerprint"]

CHUNK = 1 << 26  # bytes of a tensor that are copied at once where it is not contiguous

#: Attributes of a class that depend on its place in a file, its name or the order of a set.
NOT_CODE = {
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__qualname__",
    "__static_attributes__",
    "__weakref__",
    "_abc_impl",
    "_autograd_function_id",
}
#: Types implemented in C, which have only a name and perhaps an object that they are bound to.
BUILTIN = (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)


def fingerprint(argument: str, value: Any) -> str:
    """Digest of an argument: all its data, and the user's code that it contains.

    Functions and classes of the user's modules count by their bytecode, defaults, closures,
    attributes, bases, and by the globals that the code refers to, followed through all functions of
    the user's modules. Those of libraries (`is_library`) count by name and version. Tensors and
    arrays count by every byte, other objects by what pickle would store of them.

    Not included: files that are read at run time, the environment, compiled extensions of the
    user's, and what code reaches by computed names.

    Args:
        argument: its name, for the error.
        value: its value.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        TypeError: it holds something that cannot be compared between processes.
    """
    try:
        return _Digest().of(value).hex()
    except _UnseenError as unseen:
        where = f" ({' of '.join(unseen.where)})" if unseen.where else ""
        raise TypeError(
            f"{argument}: expected what can be compared with an earlier call in directory=, got "
            f"{unseen}{where}; make it inside the function, or leave directory= out"
        ) from unseen
    except RecursionError as error:
        raise TypeError(
            f"{argument}: expected what can be compared with an earlier call in directory=, got "
            "objects that are nested too deeply; leave directory= out"
        ) from error


class _UnseenError(Exception):
    """A value that cannot be compared; ``where`` lists what contains it, innermost first."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.where: list[str] = []


def _hash(kind: str, *parts: Any) -> bytes:
    digest = hashlib.sha256(kind.encode() + b"\0")
    for part in parts:
        digest.update(part)
    return digest.digest()


class _Digest:
    """Digests of values that refer to each other.

    Nothing depends on which equal objects are one object, since that differs between code that was
    just compiled and code that was read from a cache.
    """

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # depth of the values that are being looked at, by id
        self._done: dict[int, tuple[Any, bytes]] = {}  # of code and data; kept, so that ids stay

    def of(self, value: Any) -> bytes:
        """The digest of a value."""
        if (atom := _atom(value)) is not None:
            return atom
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            return _hash("cycle", str(len(self._open) - self._open[id(value)]).encode())
        self._open[id(value)] = len(self._open)
        try:
            digest = self._compound(value)
        finally:
            del self._open[id(value)]
        if isinstance(value, FunctionType | type | ModuleType | Tensor | np.ndarray):
            self._done[id(value)] = value, digest
        return digest

    def _compound(self, value: Any) -> bytes:
        kind = type(value)
        for kinds, digest in self._READERS:
            if isinstance(value, kinds):
                return digest(self, value)
        if kind in (tuple, list):
            return _hash(kind.__name__, *map(self.of, value))
        if kind in (set, frozenset):
            return _hash(kind.__name__, *sorted(map(self.of, value)))
        if kind in (dict, MappingProxyType):
            return self._pairs("dict", value.items())
        return self._object(value)

    def _pairs(self, kind: str, pairs: Iterable[tuple[Any, Any]]) -> bytes:
        return _hash(kind, *(self.of(each) for pair in pairs for each in pair))

    # --- Code ----------------------------------------------------------------------------------

    def _function(self, function: FunctionType) -> bytes:
        if (named := _named_in_library(function)) is not None:
            return named
        code, own = function.__code__, function.__globals__
        if is_library(home := str(own.get("__name__"))):  # made by a library's function
            used: dict[str, Any] = {}
            made_by = f"{home} {version_of(home)}"
        else:
            used, made_by = referred(code, own), ""
        return _hash(
            "function",
            self._code(code),
            self.of(made_by),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            *(
                self._of_part(f"the closure variable {name!r}", function, cell)
                for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            ),
            *(
                self.of(name) + self._of_part(f"the global {name!r}", function, used[name])
                for name in sorted(used)
            ),
            self.of(function.__dict__),
        )

    def _of_part(self, part: str, whole: Any, value: Any) -> bytes:
        try:
            return self.of(value)
        except _UnseenError as unseen:
            unseen.where.append(f"{part} of {whole.__module__}.{whole.__qualname__}")
            raise

    def _code(self, code: CodeType) -> bytes:
        counts = (
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags,
        )
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        parts = (counts, names, code.co_code, code.co_exceptiontable, code.co_consts)
        return _hash("code", *map(self.of, parts))

    def _class(self, kind: type) -> bytes:
        if (named := _named_in_library(kind)) is not None:
            return named
        own = vars(kind)
        return _hash(
            "class",
            self.of(type(kind)),
            self.of(kind.__bases__),
            *(
                self.of(name) + self._of_part(f"the attribute {name!r}", kind, own[name])
                for name in sorted(own)
                if name not in NOT_CODE
            ),
        )

    def _module(self, module: ModuleType) -> bytes:
        name = module.__name__
        if is_library(name):
            return _hash("module", name.encode(), b"\0", version_of(name).encode())
        inner = {key: each for key, each in vars(module).items() if not key.startswith("__")}
        return self._pairs("module", sorted(inner.items(), key=lambda pair: pair[0]))

    def _cell(self, cell: CellType) -> bytes:
        try:
            inner = cell.cell_contents
        except ValueError:
            return _hash("empty cell")
        return self.of(inner)

    def _method(self, method: MethodType) -> bytes:
        return _hash("method", self.of(method.__func__), self.of(method.__self__))

    def _property(self, each: property) -> bytes:
        return _hash("property", *map(self.of, (each.fget, each.fset, each.fdel)))

    def _wrapper(self, each: Any) -> bytes:
        """The digest of a decorator that is written in C or holds a lock."""
        inner = each.func if isinstance(each, functools.cached_property) else each.__wrapped__
        return _hash(type(each).__qualname__, self.of(inner))

    def _builtin(self, each: Any) -> bytes:
        owner = getattr(each, "__self__", None)
        if isinstance(owner, ModuleType) or (
            isinstance(owner, type) and is_library(owner.__module__)
        ):
            owner = None
        home = getattr(each, "__module__", None) or ""
        name = f"{home}.{each.__qualname__} {version_of(home) if is_library(home) else ''}"
        return _hash("builtin", self.of(name), self.of(owner))

    # --- Data ----------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor) -> bytes:
        if tensor.layout is not torch.strided:
            if tensor.layout is torch.sparse_coo:
                whole = tensor.detach().coalesce()
                inner = [whole.indices(), whole.values()]
            elif tensor.layout is torch.sparse_csr:
                inner = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
            else:
                raise _UnseenError(f"a tensor of layout {tensor.layout}")
            return _hash("sparse", self.of(tuple(tensor.shape)), *map(self.of, inner))
        if tensor.is_quantized or tensor.is_meta:
            raise _UnseenError(f"a tensor of {tensor.dtype} on {tensor.device}")
        head = (type(tensor), tensor.dtype, tensor.device, tensor.requires_grad)
        digest = hashlib.sha256(b"tensor" + self.of((*head, tuple(tensor.shape))))
        plain = tensor.detach().resolve_conj().resolve_neg()
        rows = plain if plain.ndim and not plain.is_contiguous() else plain.reshape(1, -1)
        step = max(1, CHUNK * len(rows) // max(1, plain.nbytes))
        for part in rows.split(step):
            try:
                flat = part.cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(flat.as_subclass(Tensor).numpy().data)
            except (RuntimeError, TypeError) as error:  # a subclass without memory of its own
                raise _UnseenError(f"a tensor of type {type(tensor).__qualname__}") from error
        return digest.digest()

    def _array(self, array: np.ndarray[Any, Any]) -> bytes:
        head = self.of((type(array), array.dtype.descr, array.dtype.str, array.shape))
        if array.dtype.hasobject:
            return _hash("objects", head, *map(self.of, array.ravel().tolist()))
        digest = hashlib.sha256(b"array" + head)
        rows = array if array.ndim and not array.flags.c_contiguous else array.reshape(1, -1)
        step = max(1, CHUNK * len(rows) // max(1, array.nbytes))
        for first in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[first : first + step])
            digest.update(part.reshape(-1).view(np.uint8).data)
        return digest.digest()

    def _object(self, value: Any) -> bytes:
        """The digest of any other object, by what pickle would store of it."""
        kind = type(value)
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(kind)
        try:
            stored = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except RecursionError:
            raise
        except Exception as error:
            raise _UnseenError(
                f"an object of type {kind.__module__}.{kind.__qualname__}"
            ) from error
        if isinstance(stored, str):
            return _hash("named", self.of(kind), self.of(stored))
        made, arguments, state, items, pairs = (tuple(stored) + (None,) * 3)[:5]
        parts = (made, arguments, state, list(items or ()), list(pairs or ()))
        return _hash("object", *map(self.of, parts))

    _READERS: tuple[tuple[Any, Callable[[_Digest, Any], bytes]], ...] = (
        (FunctionType, _function),
        (CodeType, _code),
        (type, _class),
        (ModuleType, _module),
        (CellType, _cell),
        (MethodType, _method),
        (property, _property),
        ((staticmethod, classmethod, functools._lru_cache_wrapper), _wrapper),
        (functools.cached_property, _wrapper),
        (BUILTIN, _builtin),
        (Tensor, _tensor),
        (np.ndarray, _array),
    )


def _atom(value: Any) -> bytes | None:
    """The digest of a value without parts; None for others."""
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented:
        return _hash("constant", repr(value).encode())
    if kind in (bool, int, torch.dtype, torch.device, torch.layout, torch.memory_format):
        return _hash(kind.__name__, str(value).encode())
    if kind is float:
        return _hash("float", struct.pack("<d", value))
    if kind is complex:
        return _hash("complex", struct.pack("<dd", value.real, value.imag))
    if kind is str:
        return _hash("str", value.encode("utf-8", "surrogatepass"))
    if kind in (bytes, bytearray):
        return _hash(kind.__name__, value)
    return None


def _named_in_library(code: Any) -> bytes | None:
    """The digest of a function or class that a library has under its name; None for others."""
    home, name = code.__module__, code.__qualname__
    if not isinstance(home, str) or not is_library(home) or find_named(home, name) is not code:
        return None
    return _hash("library", f"{home}.{name} {version_of(home)}".encode())
