"""The public API: every name and signature, as `public_api.txt` records them.

After a deliberate change, record it with `python -m tests.test_public_api` and say in the CHANGELOG
what to write instead.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("public_api.txt")
MODULES = (
    "asyncopt",
    "asyncopt.distributed",
    "asyncopt.errors",
    "asyncopt.simulate",
    "asyncopt.sparse",
    "asyncopt.studies",
)


def signature(function: Any) -> str:
    """Names, order and kinds of the parameters; defaults and types are documentation."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in type's constructor
        return "(...)"
    shown = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else ...)
        for p in parameters
    ]
    return str(inspect.Signature(shown)).replace("Ellipsis", "...")


def members(name: str, owner: type) -> Iterator[str]:
    """Public methods and properties that the package itself defines, inherited ones too."""
    for attribute in sorted(dir(owner)):
        home = next((c for c in owner.__mro__ if attribute in vars(c)), object)
        if attribute.startswith("_") or not home.__module__.startswith("asyncopt"):
            continue
        value = inspect.getattr_static(owner, attribute)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        yield f"{name}.{attribute}{signature(value) if inspect.isfunction(value) else ''}"


def public_api() -> list[str]:
    lines = []
    for path in MODULES:
        module = importlib.import_module(path)
        for attribute in sorted(module.__all__):
            name, value = f"{path}.{attribute}", getattr(module, attribute)
            if inspect.isclass(value):
                lines += [name + signature(value), *members(name, value)]
            elif callable(value):
                lines.append(name + signature(value))
            else:
                lines.append(name)
    return lines


def test_names_and_signatures_are_those_recorded() -> None:
    recorded = RECORD.read_text().splitlines()
    present = public_api()
    missing = sorted(set(recorded) - set(present))
    assert not missing, "removed or changed:\n" + "\n".join(missing)
    assert present == recorded, "new names or signatures: python -m tests.test_public_api"


if __name__ == "__main__":
    RECORD.write_text("\n".join(public_api()) + "\n")
