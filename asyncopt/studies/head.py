"""The head of a report: what was run, when, and on which machine."""

from __future__ import annotations

import html

from asyncopt.report.page import facts_html
from asyncopt.report.text import size_text
from asyncopt.studies.machine import Machine

BUSY = "other programs were running: trust small differences less"


def head_html(lead: str, machine: Machine, about: dict[str, str]) -> str:
    """A sentence on what the page shows, the command line, and facts about machine and build.

    Args:
        lead: the sentence.
        machine: before anything was measured.
        about: command, versions, date; see `outputs.facts`.
    """
    quota = f", quota {machine.cpu_quota:g}" if machine.cpu_quota else ""
    caches = ", ".join(
        f"{level} {size_text(size)}"
        for level, size in (("L1d", machine.l1d), ("L2", machine.l2), ("L3", machine.l3))
    )
    lines = {
        "measured": about["date"],
        "processor": f"{machine.processor}, {machine.usable_cores} usable cores{quota}",
        "load before": f"{machine.load:.1f}" + (f" ({BUSY})" if machine.busy else ""),
        "caches": caches,
        "memory": size_text(machine.memory),
        "versions": about["versions"],
        "instruction set": about["isa"],
    }
    return (
        f'<p class="quiet">{html.escape(lead)}</p>\n'
        f"<pre><code>{html.escape(about['command'])}</code></pre>\n{facts_html(lines)}"
    )
