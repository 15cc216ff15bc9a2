"""The HTML report: one file that loads nothing, and shows everything."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import matplotlib
import pytest

from asyncopt.studies.dense.plan import Comparison, SyncRow
from asyncopt.studies.dense.study import PROBLEMS, Compare
from asyncopt.studies.driver import facts
from asyncopt.studies.result import BUSY, Result
from tests.pages import check_page
from tests.studies import made_up


def render(plan: Comparison, **changes: Any) -> str:
    """The page of a comparison that never ran, on a machine with `changes`."""
    return result(plan, **changes).html()


def result(plan: Comparison, **changes: Any) -> Result[SyncRow]:
    study, machine = Compare(plan), made_up.machine(**changes)
    about = facts(study, datetime(2020, 1, 1, tzinfo=UTC)) | {
        "command": "asyncopt compare <script>"
    }
    return Result(study, machine, about, tuple(study.sections(made_up.rows(plan), machine)), 1.5)


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_up.plan())


@pytest.mark.slow
def test_page_loads_nothing_and_is_well_formed(page: str) -> None:
    check_page(page)


def test_page_names_command_machine_versions_and_every_problem(page: str) -> None:
    assert "asyncopt compare &lt;script&gt;" in page
    assert "<script" not in page
    assert "Made-up 9000" in page
    assert "torch" in page
    for problem in PROBLEMS.values():
        assert problem.title in page


def test_what_the_user_wrote_is_escaped() -> None:
    page = render(made_up.plan(problems=("digits",), delay="<b>0</b>", mode="<script>"))
    assert "--delay &lt;b&gt;0&lt;/b&gt; (seconds)" in page
    assert "<b>" not in page
    assert "<script" not in page


def test_page_says_that_the_machine_was_busy(page: str) -> None:
    assert BUSY not in page
    assert BUSY in render(made_up.plan(problems=("digits",)), load=9.0)


def test_page_says_what_workers_were_put_through(page: str) -> None:
    assert "Workers were killed" not in page
    plan = made_up.plan(problems=("digits",), kill_rate=2.0, delay="0,0,0,0.01", max_staleness=4)
    harsh = render(plan)
    assert "Workers were killed 2 times per second" in harsh
    assert "--delay 0,0,0,0.01" in harsh
    assert "At most 4 turns" in harsh


def test_every_problem_has_its_plots(page: str) -> None:
    for name in ("mnist", "digits"):
        for plot in ("loss", "scaling", "rate", "stale"):
            assert f'data-plot="{name}-{plot}"' in page
    for plot in ("dense", "rows", "lost"):
        assert f'data-plot="contention-{plot}"' in page


def test_tables_have_every_variant_and_worker_count(page: str) -> None:
    plan = made_up.plan()
    body = page[page.index('id="mnist"') : page.index('id="digits"')]
    for variant in plan.variants:
        cells = re.findall(rf'<td class="word">{re.escape(variant.label)}</td><td>(\d+)</td>', body)
        assert cells == ["1", "2", "4"]


@pytest.mark.slow
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
def test_report_of_a_small_or_odd_plan(plan: Comparison) -> None:
    assert render(plan).endswith("</html>\n")


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    render(made_up.plan(problems=("digits",)))
    assert dict(matplotlib.rcParams) == before
