"""The HTML report: one file that loads nothing, and shows everything."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import matplotlib
import pytest

from asyncopt.cli import outputs, report
from asyncopt.cli.plan import Plan
from asyncopt.cli.problems import PROBLEMS
from tests.cli import made_up

ABOUT = outputs.facts(datetime(2020, 1, 1, tzinfo=UTC)) | {"command": "asyncopt compare <script>"}


def render(plan: Plan) -> str:
    return report.render(plan, made_up.machine(), made_up.rows(plan), ABOUT)


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_up.plan())


class Reader(HTMLParser):
    """Collects ids, what would be loaded, and whether the tags close in order."""

    VOID = frozenset({"meta", "br", "img", "hr", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            local = (value or "").startswith("#")
            if name in ("src", "href", "xlink:href", "data", "srcset") and not local:
                self.loaded.append(f"{name}={value}")


def test_page_loads_nothing_and_is_well_formed(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.loaded == []
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_ids_are_unique_and_references_find_them(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    # Matplotlib repeats the outline of a letter in each plot that has it; names keep plots apart.
    assert len(reader.ids) == len(set(reader.ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {first or second for first, second in used} <= set(reader.ids)


def test_page_names_command_machine_versions_and_every_problem(page: str) -> None:
    assert "asyncopt compare &lt;script&gt;" in page
    assert "<script" not in page
    assert "Made-up 9000" in page
    assert "torch" in page
    for problem in PROBLEMS.values():
        assert problem.title in page


def test_page_says_that_the_machine_was_busy(page: str) -> None:
    assert report.BUSY not in page
    plan = made_up.plan(problems=("digits",))
    busy = report.render(plan, made_up.machine(load=9.0), made_up.rows(plan), ABOUT)
    assert report.BUSY in busy


def test_every_problem_has_its_plots(page: str) -> None:
    for name in ("mnist", "digits"):
        for plot in ("loss", "scaling", "rate", "stale"):
            assert f'aria-label="plot {name}-{plot}"' in page
    for plot in ("dense", "rows", "lost"):
        assert f'aria-label="plot contention-{plot}"' in page


def test_tables_have_every_variant_and_worker_count(page: str) -> None:
    plan = made_up.plan()
    body = page[page.index('id="mnist"') : page.index('id="digits"')]
    for variant in plan.variants:
        cells = re.findall(rf'<td class="word">{re.escape(variant.label)}</td><td>(\d+)</td>', body)
        assert cells == ["1", "2", "4"]


@pytest.mark.parametrize(
    "plan",
    [
        made_up.plan(workers=(1,)),
        made_up.plan(workers=(3,), repeats=1),
        made_up.plan(syncs=("mutex",), problems=("digits",)),
        made_up.plan(syncs=("hogwild",), audit=False, problems=("contention",), workers=(2,)),
        made_up.plan(workers=(1, 2, 3, 4, 5, 6, 7, 8), problems=("mnist",)),
    ],
    ids=["one worker", "no base", "one sync", "no audit", "many counts"],
)
def test_report_of_a_small_or_odd_plan(plan: Plan) -> None:
    assert render(plan).endswith("</html>\n")


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    render(made_up.plan(problems=("digits",)))
    assert dict(matplotlib.rcParams) == before
