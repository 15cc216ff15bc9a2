"""The user's own code: its modules, and the globals that its functions refer to."""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

__all__ = ["find_named", "is_library", "referred", "version_of"]

GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    paths = [*site.getsitepackages(), site.getusersitepackages()]
    paths += [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return tuple({Path(path).resolve() for path in paths})


def is_library(module: str) -> bool:
    """True if a module is Python's, installed (in site-packages), or asyncopt's.

    All other modules are the user's: scripts, notebooks (whose ``__main__`` is a file of the
    kernel's), packages on the path or installed as editable.
    """
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names or top == "asyncopt":
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or _origin(top)
    if file is None:
        return False
    path = Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in _library_folders())


def _origin(top: str) -> str | None:
    """The file of a top-level module or package; None for a script or a cell."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


@functools.cache
def version_of(module: str) -> str:
    """The version of the library that a module belongs to."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return platform.python_version()
    found = getattr(sys.modules.get(top), "__version__", None)
    if found is None:
        names = importlib.metadata.packages_distributions().get(top, [])
        found = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return str(found)


def find_named(module: str, name: str) -> Any:
    """The object under a dotted name in an imported module; None if there is none."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def referred(code: CodeType, namespace: dict[str, Any]) -> dict[str, Any]:
    """The globals and imports that a function's code and the code inside it refer to, by name.

    Names within a user's module (``helpers.scale``) are followed to what they name, so that the
    rest of the module does not count.

    Args:
        code: of the function.
        namespace: its globals.
    """
    found: dict[str, Any] = {}
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for place, step in enumerate(steps):
        if step.opname in GLOBAL and step.argval in namespace:
            name, value = step.argval, namespace[step.argval]
            for after in steps[place + 1 :]:
                inside = isinstance(value, ModuleType) and not is_library(value.__name__)
                if not (inside and after.opname in ATTRIBUTE and hasattr(value, after.argval)):
                    break
                name, value = f"{name}.{after.argval}", getattr(value, after.argval)
            found[name] = value
        elif step.opname == "IMPORT_NAME":
            level, names = (before.argval for before in steps[place - 2 : place])
            found |= _imported(step.argval, level, names or (), namespace)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= referred(constant, namespace)
    return found


def _imported(
    name: str, level: int, names: tuple[str, ...], namespace: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Names and values that an import statement in a function binds; none for a missing module."""
    with contextlib.suppress(ImportError):
        full = importlib.util.resolve_name("." * level + name, namespace.get("__package__") or "")
        module = importlib.import_module(full)
        if not names or "*" in names or is_library(full):
            yield full, module
            return
        for each in names:
            inner = f"{full}.{each}"
            if not hasattr(module, each):
                importlib.import_module(inner)
            yield inner, getattr(module, each)
