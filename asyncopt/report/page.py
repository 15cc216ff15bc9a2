"""A page of HTML: one file, nothing to load, readable on a phone and on paper."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from asyncopt.report.table import Sheet, sheet_html

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1f2937;
  background: #fff; max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .25rem; } h2 { font-size: 1.4rem; margin: 3rem 0 .5rem;
  border-top: 2px solid #e5e7eb; padding-top: 1.5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { max-width: 50rem; margin: .4rem 0 .8rem; } .quiet { color: #4b5563; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: #f3f4f6;
  padding: .1rem .35rem; border-radius: 4px; } pre { background: #f3f4f6; padding: .75rem 1rem;
  border-radius: 6px; overflow-x: auto; } pre code { padding: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0; }
dt { color: #4b5563; } dd { margin: 0; }
ul.findings { background: #eff6ff; border-left: 4px solid #0072B2; border-radius: 4px;
  padding: .75rem 1rem .75rem 2rem; max-width: 50rem; } ul.findings li { margin: .2rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem;
  font-variant-numeric: tabular-nums; margin: .75rem 0; } th, td { padding: .25rem .8rem .25rem 0;
  text-align: right; white-space: nowrap; } th { border-bottom: 2px solid #9ca3af; vertical-align:
  bottom; } th[title] { cursor: help; } .word { text-align: left; } tr.last td { border-bottom:
  1px solid #e5e7eb; } tr.aside td { color: #6b7280; font-style: italic; }
figure { margin: 1rem 0 2rem; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #4b5563; font-size: .9rem;
  max-width: 50rem; } summary { cursor: pointer; color: #0072B2; }
@media print { body { max-width: none; }
  h2 { break-before: page; } figure { break-inside: avoid; } }
"""


class Picture(NamedTuple):
    """A heading, the SVG, and what it shows in a sentence or two."""

    heading: str
    drawing: str
    caption: str


def figure_html(picture: Picture) -> str:
    """A picture under its heading."""
    return (
        f"<h3>{html.escape(picture.heading)}</h3><figure>{picture.drawing}"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def chapter_html(
    name: str,
    title: str,
    about: str,
    findings: Iterable[str],
    sheet: Sheet,
    pictures: Iterable[Picture],
) -> str:
    """A problem: what it is, what was found in sentences, the numbers, and pictures of them."""
    listed = "".join(f"<li>{html.escape(text)}</li>" for text in findings)
    return "\n".join(
        [
            f'<h2 id="{name}">{html.escape(title)}</h2>',
            f"<p>{html.escape(about)}</p>",
            f'<ul class="findings">{listed}</ul>',
            sheet_html(sheet),
            *map(figure_html, pictures),
        ]
    )


def facts_html(facts: Mapping[str, str]) -> str:
    """Names and what is known of each, as a list."""
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def page_html(title: str, parts: Sequence[str]) -> str:
    """The whole page: a title over HTML `parts`."""
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )
