"""HTML pages from jinja2 templates with autoescape.

Templates of other packages may extend ``page.html`` and import from ``macros.html``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

OWN = "asyncopt.report"


class Picture(NamedTuple):
    """A heading, the SVG, and a caption of a sentence or two."""

    heading: str
    drawing: str
    caption: str

    @property
    def described(self) -> str:
        """The SVG with the caption as its text for screen readers."""
        label = f'aria-label="{escape(self.caption)}"'
        return re.sub(r'aria-label="plot [^"]*"', lambda _: label, self.drawing, count=1)


@lru_cache
def environment(package: str) -> Environment:
    """The templates of `package` (its folder ``templates``) and those of this package."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(OWN)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, package: str, **context: Any) -> str:
    """Fill a template of `package`; every string that is not marked safe is escaped."""
    return environment(package).get_template(template).render(**context)


def write_whole(path: Path, text: str) -> None:
    """Write `text` and a line's end to `path`, or nothing: what was there stays until the end."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text.removesuffix("\n") + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
