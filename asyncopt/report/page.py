"""HTML pages and their parts, from jinja2 templates with autoescape.

Templates of other packages may extend ``page.html`` and import from ``macros.html``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asyncopt.report.table import Table

OWN = "asyncopt.report"


class Picture(NamedTuple):
    """A heading, the SVG, and a caption of a sentence or two."""

    heading: str
    drawing: str
    caption: str


@lru_cache
def environment(package: str = OWN) -> Environment:
    """The templates of `package` (its folder ``templates``) and those of this package."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, OWN))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, package: str = OWN, **context: Any) -> str:
    """Fill a template of `package`; every string that is not `Markup` is escaped."""
    return environment(package).get_template(template).render(**context)


def figure_html(picture: Picture) -> str:
    """A picture under its heading."""
    return _part("figure", picture)


def table_html(table: Table) -> str:
    """A table that scrolls sideways where it is wider than the page."""
    return _part("table", table)


def facts_html(facts: Mapping[str, str]) -> str:
    """Names and values, as a definition list."""
    return _part("facts", facts)


def page_html(title: str, parts: Sequence[str]) -> str:
    """The whole page: `title` over `parts`, which are HTML and stay as they are."""
    return render("page.html", title=title, body=Markup("\n".join(parts)))


def _part(macro: str, content: Any) -> str:
    module = environment().get_template("macros.html").module
    part: str = getattr(module, macro)(content)
    return part
