"""The HTML report of a comparison."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence

from asyncopt.optim.kernels import syncs
from asyncopt.report.page import Picture, figure_html, page_html
from asyncopt.report.table import Line, Sheet, sheet_html
from asyncopt.studies.dense import contention_plots as contention
from asyncopt.studies.dense import training_plots as training
from asyncopt.studies.dense.findings import findings
from asyncopt.studies.dense.plan import Plan
from asyncopt.studies.dense.problems import PROBLEMS
from asyncopt.studies.dense.table import full_sheet, short_sheet
from asyncopt.studies.head import head_html
from asyncopt.studies.machine import Machine
from asyncopt.studies.pens import Pens
from asyncopt.studies.results import Row

LEAD = (
    "The same real models, trained by workers that share one set of parameters, under each way of "
    "writing to shared memory."
)


def render(plan: Plan, machine: Machine, rows: Sequence[Row], facts: dict[str, str]) -> str:
    """The whole page. `facts` go under the title: command, versions, date."""
    pens = Pens([variant.label for variant in plan.variants])
    sections = []
    for name in plan.problems:
        own = [row for row in rows if row.problem == name]
        sections.append(_section(name, own, machine.usable_cores, pens))
    return page_html(
        "asyncopt compare",
        [
            head_html(LEAD, machine, facts),
            _reading(plan),
            _contracts(plan),
            *sections,
        ],
    )


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
    ) + "".join(f"<p>{html.escape(text)}</p>" for text in _conditions(plan))


def _conditions(plan: Plan) -> Iterator[str]:
    """What the workers were put through, and what that did to the unshared ones."""
    if plan.kill_rate is not None:
        yield (
            f"Workers were killed {plan.kill_rate:g} times per second of their working time, at "
            "any instruction and whatever lock they held, and replaced; the time that took is in "
            "the numbers. A replacement goes on with the mini-batch that was not finished. An "
            "unshared worker's private copy dies with it: its replacement begins with a new one."
        )
    if plan.delay is not None:
        yield (
            f"Each worker slept between computing a gradient and pushing it: --delay {plan.delay} "
            "(seconds). Unshared workers slept as long."
        )
    if plan.max_staleness is not None:
        yield (
            f"At most {plan.max_staleness} turns of other workers could end between a worker's "
            "pull and its push; a worker that would have been later waited. Unshared workers "
            "waited for nobody."
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
    parts += [figure_html(picture) for picture in pictures(name, rows, usable_cores, pens)]
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
