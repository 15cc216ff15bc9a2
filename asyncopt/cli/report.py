"""The HTML report: one file, nothing to load, readable on a phone and on paper."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

from asyncopt.cli.findings import findings
from asyncopt.cli.machine import Machine, size_text
from asyncopt.cli.plan import Plan
from asyncopt.cli.plots import contention, training
from asyncopt.cli.plots.style import Pens
from asyncopt.cli.problems import PROBLEMS
from asyncopt.cli.results import Row
from asyncopt.cli.table import Line, Sheet, full_sheet, short_sheet
from asyncopt.optim.kernels import syncs

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

LEAD = (
    '<p class="quiet">The same real models, trained by workers that share one set of parameters, '
    "under each way of writing to shared memory.</p>"
)

BUSY = "other programs were running: trust small differences less"


class Picture(NamedTuple):
    """A heading, the SVG, and what it shows in a sentence or two."""

    heading: str
    drawing: str
    caption: str


def render(plan: Plan, machine: Machine, rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The whole page. `facts` go under the title: command, versions, date."""
    pens = Pens([variant.label for variant in plan.variants])
    sections = []
    for name in plan.problems:
        own = [row for row in rows if row.problem == name]
        sections.append(_section(name, own, machine.usable_cores, pens))
    body = "\n".join(
        [
            "<h1>asyncopt compare</h1>",
            LEAD,
            f"<pre><code>{html.escape(facts['command'])}</code></pre>",
            _facts(machine, facts),
            _reading(plan),
            _contracts(plan),
            *sections,
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>asyncopt compare</title><style>{CSS}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def _facts(machine: Machine, facts: dict[str, str]) -> str:
    quota = f", quota {machine.cpu_quota:g}" if machine.cpu_quota else ""
    caches = ", ".join(
        f"{level} {size_text(size)}"
        for level, size in (("L1d", machine.l1d), ("L2", machine.l2), ("L3", machine.l3))
    )
    lines = {
        "measured": facts["date"],
        "processor": f"{machine.processor}, {machine.usable_cores} usable cores{quota}",
        "load before": f"{machine.load:.1f}" + (f" ({BUSY})" if machine.busy else ""),
        "caches": caches,
        "memory": size_text(machine.memory),
        "versions": facts["versions"],
        "instruction set": facts["isa"],
    }
    items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in lines.items())
    return f"<dl>{items}</dl>"


def _reading(plan: Plan) -> str:
    """How the numbers were made, once for all problems."""
    return (
        "<p>Contenders ran interleaved in one launch per problem and worker count "
        f"({plan.repeats} repeat{'s' if plan.repeats > 1 else ''}, one thread per worker, "
        f"{plan.mode} workers); numbers are medians. Every sync starts from the same weights and "
        "sees the same number of examples, however many workers split them. "
        "<code>unshared</code> is the machine's ceiling: workers that train private copies and "
        "share nothing. <code>hogwild+audit</code> is hogwild with every lost update counted, "
        "which costs time.</p>"
    )


def _contracts(plan: Plan) -> str:
    """What each sync promises, from the build's own list."""
    headings = (
        "sync",
        "may lose updates",
        "readers may see half an update",
        "may wait for another worker",
        "workers hold copies",
    )
    lines = []
    for sync in plan.syncs:
        promise = syncs()[sync]
        answers = (
            promise["may_lose"],
            promise["may_tear"],
            promise["may_block"],
            promise["replica"],
        )
        cells = [sync, *("yes" if answer else "no" for answer in answers)]
        lines.append(Line(cells, aside=False, last=True))
    sheet = Sheet([(heading, "") for heading in headings], lines, left=len(headings))
    return f"<h3>What the syncs promise</h3>{sheet_html(sheet)}"


def _section(name: str, rows: Sequence[Row], usable_cores: int, pens: Pens) -> str:
    problem = PROBLEMS[name]
    sentences = "".join(f"<li>{html.escape(text)}</li>" for text in findings(rows, usable_cores))
    parts = [
        f'<h2 id="{name}">{html.escape(problem.title)}</h2>',
        f"<p>{html.escape(problem.about)}</p>",
        f'<ul class="findings">{sentences}</ul>' if sentences else "",
        sheet_html(short_sheet(rows)),
    ]
    pictures: Callable[..., list[Picture]]
    pictures = _contention_pictures if rows[0].case else _training_pictures
    parts += [_figure(picture) for picture in pictures(name, rows, usable_cores, pens)]
    if rows[0].case:
        whole = sheet_html(full_sheet(rows))
        parts.append(f"<details><summary>All {len(rows)} measurements</summary>{whole}</details>")
    return "\n".join(part for part in parts if part)


def _training_pictures(
    name: str, rows: Sequence[Row], usable_cores: int, pens: Pens
) -> list[Picture]:
    return [
        Picture(
            "Loss against wall time",
            training.loss_by_workers(f"{name}-loss", rows, pens),
            "Training loss, averaged over slices of mini-batches, of the repeat with the median "
            "time. Left is faster, low is better; lines on top of each other mean that the sync "
            "does not matter here.",
        ),
        Picture(
            "What more workers buy under each sync",
            training.loss_by_sync(f"{name}-scaling", rows),
            "The same curves, one panel per sync. A darker line left of a lighter one is a "
            "speed-up; one that ends higher paid for it in loss.",
        ),
        Picture(
            "Throughput against workers",
            training.throughput(f"{name}-rate", rows, pens, usable_cores),
            "Pushes per second of all workers together, with the quartiles of the repeats. The "
            "dashed grey line is the machine's ceiling: workers that share nothing.",
        ),
        Picture(
            "Staleness",
            training.staleness(f"{name}-stale", rows),
            "How many pushes by other workers landed between a worker's reading of the parameters "
            "and its own push. A single worker always has zero. Long tails come from workers that "
            "the system had stopped; with them, the scale is logarithmic beyond 8.",
        ),
    ]


def _contention_pictures(
    name: str, rows: Sequence[Row], usable_cores: int, pens: Pens
) -> list[Picture]:
    pictures = [
        Picture(
            "Dense vectors: what sharing costs",
            contention.dense(f"{name}-dense", rows, pens),
            "Updates per second, relative to as many workers that share nothing (the dashed line), "
            "as the vector grows from one cache line to beyond the last-level cache. Below the "
            "line, sharing costs. The smallest vectors spend most of a push in Python, which hides "
            "some of that cost.",
        )
    ]
    if not all(contention.is_dense(row) for row in rows):
        pictures.append(
            Picture(
                "Overlapping sparse rows",
                contention.sparse(f"{name}-rows", rows),
                "Skewed rows collide often, uniform ones almost never. seqlock and leashed copy "
                "the whole table for every push: they are made for dense updates.",
            )
        )
    if any(row.lost_updates for row in rows):
        pictures.append(
            Picture(
                "Lost updates",
                contention.lost(f"{name}-lost", rows),
                "Element updates that were pushed and are missing from the final values: exact, "
                "because every increment is a power of two. Syncs that are not shown lost none.",
            )
        )
    return pictures


def _figure(picture: Picture) -> str:
    return (
        f"<h3>{html.escape(picture.heading)}</h3><figure>{picture.drawing}"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def sheet_html(sheet: Sheet) -> str:
    """A sheet as an HTML table."""
    heads = "".join(
        f'<th scope="col" title="{html.escape(meaning)}"{_word(place, sheet)}>'
        f"{html.escape(heading)}</th>"
        for place, (heading, meaning) in enumerate(sheet.headings)
    )
    lines = []
    for line in sheet.lines:
        names = " ".join(name for name, on in (("aside", line.aside), ("last", line.last)) if on)
        cells = "".join(
            f"<td{_word(place, sheet)}>{html.escape(text)}</td>"
            for place, text in enumerate(line.cells)
        )
        lines.append(f'<tr class="{names}">{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _word(place: int, sheet: Sheet) -> str:
    return ' class="word"' if place < sheet.left else ""
