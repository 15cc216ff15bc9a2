"""Pickling of functions and classes between processes, including those that cannot be imported.

Definitions that another process can import are pickled by name. Lambdas, closures, local classes
and everything that was defined in a notebook, an interactive session, on stdin or by ``python -c``
are pickled by value, by cloudpickle. The main module of a script counts as importable, because
workers import it again, except for the code under its ``if __name__ == "__main__":``. A module that
was loaded from a path or created at run time is pickled by value if importing its name would fail.

A definition that was sent by value keeps its identity on the way back: if a worker returns an
object whose class was defined in a notebook, ``isinstance`` is true in the notebook.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import os
import pickle
import re
import sys
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from multiprocessing import spawn
from pathlib import Path
from typing import IO, Any

import cloudpickle

__all__ = ["DefinitionPickler", "dumps", "main_is_file"]

# File names that Python and IPython give to code that was typed in.
_TYPED = ("<stdin>", "<python-input", "<ipython-input")

_Definition = type | types.FunctionType


class DefinitionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler of functions and classes by name where that suffices, else by value.

    Args:
        file: to write to.
        replies: whether it writes to the process that sent this one its definitions. Those are
            pickled by reference, so that the receiver gets its own objects back.
    """

    def __init__(self, file: IO[bytes], *, replies: bool) -> None:
        super().__init__(file)
        self._replies = replies

    def reducer_override(self, item: object) -> Any:
        """The reduction of an object; NotImplemented leaves it to pickle."""
        if not isinstance(item, _Definition) or _is_in_main_file(item):
            return NotImplemented
        if self._replies and (name := _table.received(item)) is not None:
            return _recall, (name,)
        with _by_value_if_unknown(item.__module__):
            reduced = super().reducer_override(item)
        if reduced is NotImplemented or len(reduced) < 3:  # by its name, or such as type(None)
            return reduced
        make, arguments, *state = reduced
        return _define, (_table.name(item), make, arguments), *state


def dumps(item: object) -> bytes:
    """Pickle a reply to the process that sent this one its work; tensors go by value."""
    file = io.BytesIO()
    DefinitionPickler(file, replies=True).dump(item)
    return file.getvalue()


def main_is_file() -> bool:
    """True if worker processes can import the main module again, by its name or from its file."""
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", None) is not None:
        return True
    file = getattr(main, "__file__", None)
    return file is not None and os.path.exists(file)


def _is_in_main_file(item: _Definition) -> bool:
    """True if a definition exists in workers after they import the main module again."""
    if item.__module__ != "__main__" or not main_is_file():
        return False
    found: Any = sys.modules["__main__"]
    if item.__qualname__.partition(".")[0] in _guarded_names(getattr(found, "__file__", "")):
        return False
    for name in item.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is item and not any(map(_is_left_out, [item, *vars(item).values()]))


def _is_left_out(part: object) -> bool:
    """True if a function of the main module is missing when its file is imported."""
    if not isinstance(part, types.FunctionType):
        return False
    code = part.__code__
    if code.co_filename.startswith(_TYPED):
        return True
    if code.co_filename != getattr(sys.modules["__main__"], "__file__", None):
        return False
    return any(code.co_firstlineno in lines for lines in _guarded(code.co_filename))


def _guarded(file: str) -> list[range]:
    """The lines of a script that run only if it is the main module."""
    return [
        range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        for statement in _statements(file)
        if _is_guard(statement)
    ]


@functools.cache
def _guarded_names(file: str) -> frozenset[str]:
    """The names that a script defines only if it is the main module."""
    every = _statements(file)
    guarded = [_names(statement) for statement in every if _is_guard(statement)]
    others = [_names(statement) for statement in every if not _is_guard(statement)]
    return frozenset().union(*guarded).difference(*others)


@functools.cache
def _statements(file: str) -> list[ast.stmt]:
    try:
        return ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _is_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and {"__name__", "__main__"} <= set(
        re.findall(r"\w+", ast.unparse(statement.test))
    )


def _names(statement: ast.stmt) -> set[str]:
    """Names of functions, classes and variables that a statement of a module may define."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    return {
        node.id if isinstance(node, ast.Name) else node.name
        for node in ast.walk(statement)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }


@contextlib.contextmanager
def _by_value_if_unknown(module: str) -> Iterator[None]:
    """Context in which cloudpickle takes a module by value if workers could not import it."""
    loaded = sys.modules.get(module)
    if (
        loaded is None
        or module in cloudpickle.list_registry_pickle_by_value()  # by the user
        or _can_be_imported(module.partition(".")[0])
    ):
        yield
        return
    cloudpickle.register_pickle_by_value(loaded)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(loaded)


@functools.cache
def _can_be_imported(name: str) -> bool:
    """True if a top-level module that is loaded here is one that an import would find."""
    if name in ("__main__", "__mp_main__"):  # cloudpickle pickles these by value in any case
        return True
    here = getattr(sys.modules.get(name), "__spec__", None)
    if here is None:
        return False
    path = spawn.get_preparation_data(name)["sys_path"]  # of workers, wherever this process is now
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    found = [PathFinder.find_spec(name, path), *(each.find_spec(name, None) for each in finders)]
    return any(spec is not None and spec.origin == here.origin for spec in found)


class _Table:
    """Definitions that this process has sent or received by value, each under a unique name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._names: weakref.WeakKeyDictionary[Any, tuple[str, bool]] = weakref.WeakKeyDictionary()

    def name(self, item: _Definition) -> str:
        with self._lock:
            name, _ = self._names.setdefault(item, (uuid.uuid4().hex, False))
            self._by_name[name] = item
        return name

    def received(self, item: _Definition) -> str | None:
        """The name of a definition that came from another process; None for others."""
        name, is_received = self._names.get(item, ("", False))
        return name if is_received else None

    def get(self, name: str) -> Any:
        return self._by_name.get(name)

    def receive(self, name: str, item: Any) -> None:
        with self._lock:
            self._names[item] = name, True
            self._by_name[name] = item


_table = _Table()


def _define(name: str, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Unpickle a definition; its state follows."""
    item = make(*arguments)
    _table.receive(name, item)
    return item


def _recall(name: str) -> Any:
    """Unpickle a definition that this process has sent before."""
    item = _table.get(name)
    if item is None:
        raise pickle.UnpicklingError(
            "a function or class that came by value has been deleted; keep a reference to it"
        )
    return item
