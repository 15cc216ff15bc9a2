"""Where the package was installed from, and the command that installs it again with an extra."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["command", "origin", "rebuild"]

_ROOT = Path(__file__).parents[1]


def origin() -> str:
    """Where pip got the package: "checkout /path", "file:///path/to.whl", or "package index"."""
    source = _source()
    if "dir_info" in source:
        return f"checkout {_path(source)}"
    return str(source["url"]) if source else "package index"


def command(extra: str) -> str:
    """The pip command that adds an extra, from where the package came from.

    Args:
        extra: one of the optional dependencies in pyproject.toml, such as ``"cli"``.
    """
    source = _source()
    wanted = f"asyncopt[{extra}]"
    if "dir_info" in source:
        wanted = f"{_path(source)}[{extra}]"
    elif source:
        wanted += f" @ {source['url']}"
    return f"pip install {_editable(source)}{shlex.quote(wanted)}"


def rebuild() -> str:
    """The pip command that compiles the package again, from where it came from."""
    source = _source()
    again = "pip install --force-reinstall --no-deps"
    if "dir_info" in source:
        return f"{again} {_editable(source)}{shlex.quote(_path(source))}"
    return f"{again} --no-binary asyncopt asyncopt"


def _editable(source: dict[str, Any]) -> str:
    return "-e " if source.get("dir_info", {}).get("editable") else ""


def _source() -> dict[str, Any]:
    """What pip has recorded of a package that is from no index (PEP 610); else empty."""
    # In a checkout, setuptools' own folder may come first, where pip has recorded nothing.
    for distribution in metadata.distributions(name="asyncopt"):
        if recorded := distribution.read_text("direct_url.json"):
            source: dict[str, Any] = json.loads(recorded)
            return source
    if _ROOT.joinpath("setup.py").exists():  # built in place
        return {"url": _ROOT.as_uri(), "dir_info": {}}
    return {}


def _path(source: dict[str, Any]) -> str:
    return unquote(urlsplit(source["url"]).path)
