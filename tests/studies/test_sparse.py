"""``asyncopt compare-sparse``: measurements and findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import maximum_flow
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import hinge_loss, log_loss, roc_auc_score
from sklearn.svm import LinearSVC
from typer.testing import CliRunner

from asyncopt._install import command
from asyncopt.cli.commands import cli
from asyncopt.sparse import MatrixFactorization, make_ratings_like, movielens
from asyncopt.studies import machine
from asyncopt.studies.progress import Display
from asyncopt.studies.rows import Spread
from asyncopt.studies.sparse import factors, linear, study
from asyncopt.studies.sparse.cuts import Cuts
from asyncopt.studies.sparse.factors import MatrixCompletion, Ranking, Ratings
from asyncopt.studies.sparse.findings import findings, recommendation
from asyncopt.studies.sparse.linear import LikeRcv1, Split, TextSvm
from asyncopt.studies.sparse.peers import Products, ranking
from asyncopt.studies.sparse.problem import (
    FitRow,
    Library,
    Settings,
    SparseComparison,
    SparseProblem,
    with_speedups,
)
from asyncopt.studies.sparse.study import CompareSparse, table
from tests.pages import check_page
from tests.studies import made_up

runner = CliRunner()
RIVAL = "mutex, the fastest blocking sync"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "look", made_up.machine)
    monkeypatch.setattr(linear, "QUICK_ROWS", 400)
    monkeypatch.setattr(TextSvm, "packages", ("json", "logging"))
    monkeypatch.setattr(factors, "QUICK_SCALE", 2e-5)
    few = movielens().ratings.tocsr()[:40].tocoo()
    monkeypatch.setattr(Ranking, "ratings", lambda self, plan: few)


def plan(**changes: object) -> SparseComparison:
    options: dict[str, object] = {
        "problems": ("rcv1-shaped",),
        "syncs": (),
        "workers": (1, 2),
        "repeats": 1,
        "epochs": 1,
        "lr": None,
        "seed": 0,
        "quick": True,
    }
    return SparseComparison(**(options | changes))  # type: ignore[arg-type]


def measured(problem: str, out: Path, *more: str) -> dict[str, Any]:
    """The document of a real comparison, as small as it gets."""
    arguments = [
        "compare-sparse",
        "--problem",
        problem,
        "--quick",
        "--epochs",
        "1",
        "--repeats",
        "1",
    ]
    result = runner.invoke(cli, [*arguments, *more, "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    assert document == json.loads((out / "results.json").read_text())
    check_page((out / "report.html").read_text())
    return document


def every_row(subject: SparseProblem, workers: tuple[int, ...]) -> list[tuple[str, int]]:
    """(contender, workers) of all that can be measured here."""
    expected = [(sync, count) for sync in subject.syncs for count in workers]
    for library in subject.libraries:
        if library.installed:
            counts = workers if library.threaded else (1,)
            expected += [(library.label, count) for count in counts]
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("problem", study.PROBLEMS)
def test_every_sync_and_library_with_every_number_of_workers(problem: str, tmp_path: Path) -> None:
    rows = measured(problem, tmp_path, "--workers", "1,3")["rows"]
    subject = study.PROBLEMS[problem]
    assert [(row["contender"], row["workers"]) for row in rows] == every_row(subject, (1, 3))
    for row in rows:
        assert row["epochs"] == 1
        assert list(row["scores"]) == [measure.name for measure in subject.measures]
        assert all(np.isfinite(score["median"]) for score in row["scores"].values())
        assert row["seconds"]["median"] > 0
    alone = [row["scores"] for row in rows if row["sync"] and row["workers"] == 1]
    assert all(scores == alone[0] for scores in alone)  # one worker races with nobody


def test_tables_and_the_chosen_syncs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (absent,) = (each for each in LikeRcv1.libraries if each.label == "snapml")
    monkeypatch.setattr(absent, "module", "no_such_module", raising=False)
    monkeypatch.setattr(LikeRcv1, "libraries", (absent,))
    arguments = "compare-sparse --problem RCV1-shaped --quick --epochs 1 --repeats 1 --workers 2"
    more = ["--sync", "mutex", "--sync", "HOGWILD", "--out", str(tmp_path)]
    result = runner.invoke(cli, [*arguments.split(), *more])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "report.html").read_text().count("<svg") == 1  # nothing speeds up
    begins = [line.split()[:2] for line in result.stdout.splitlines()]
    assert ["hogwild", "2"] in begins
    assert ["mutex", "2"] in begins
    assert not any(begin[:1] == ["atomic"] for begin in begins)
    assert LikeRcv1.title in result.stdout
    assert command("peers") in result.stdout
    options = json.loads((tmp_path / "results.json").read_text())["options"]
    assert options["syncs"] == ["hogwild", "mutex"]


def test_the_default_workers_are_the_papers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[SparseComparison] = []

    def measure(self: CompareSparse, display: Display) -> list[FitRow]:
        plans.append(self.plan)
        return [row("hogwild", 1, 1.0)]

    monkeypatch.setattr(CompareSparse, "measure", measure)
    arguments = ["compare-sparse", "--problem", "rcv1-shaped", "--out", str(tmp_path)]
    assert runner.invoke(cli, arguments).exit_code == 0
    assert runner.invoke(cli, [*arguments, "--quick"]).exit_code == 0
    assert [made.workers for made in plans] == [(1, 2, 4, 8), (1, 2)]
    assert set(LikeRcv1.syncs) <= set(plans[0].syncs)
    assert plans[0].syncs[0] == "hogwild"
    assert plans[0].syncs[-1] == "unshared"


def test_too_large_a_learning_rate_is_a_one_line_error(tmp_path: Path) -> None:
    arguments = ["compare-sparse", "--problem", "rcv1-shaped", "--quick", "--lr", "1e38"]
    result = runner.invoke(cli, [*arguments, "--out", str(tmp_path)])
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: rcv1-shaped under hogwild with 1 worker: eta0: expected")


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_scores_are_those_of_scikit_learn(loss: str) -> None:
    X, y = plain_examples()
    data = Split(X, y, X[:50], -y[:50])
    subject = LikeRcv1()
    subject.loss = loss
    if loss == "hinge":
        model = LinearSVC(random_state=0).fit(X, y)
        expected = hinge_loss(y, model.decision_function(X))
    else:
        model = LogisticRegression().fit(X, y)
        expected = log_loss(y, model.predict_proba(X))
    scores = subject.score(data, model)
    penalty = linear.ALPHA / 2 * float((model.coef_**2).sum())
    assert scores["objective"] == pytest.approx(expected + penalty, rel=1e-6)
    assert scores["train_error"] == pytest.approx(1 - model.score(X, y))
    assert scores["test_error"] == pytest.approx(model.score(X[:50], y[:50]))


def plain_examples() -> tuple[Any, Any]:
    """300 of 20 columns, labelled by a line and some noise."""
    random = np.random.default_rng(0)
    dense = random.standard_normal((300, 20)) * (random.random((300, 20)) < 0.5)
    X = sparse.csr_matrix(dense.astype(np.float32))
    y = np.where(dense @ random.standard_normal(20) + random.standard_normal(300) > 0, 1, -1)
    return X, y


@pytest.mark.parametrize("library", LikeRcv1.libraries, ids=lambda library: library.label)
def test_linear_libraries_minimize_the_same_objective(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "ALPHA", 0.01)  # near enough within a few hundred passes
    monkeypatch.setattr(library, "alpha", 0.01)
    if not library.installed:
        pytest.skip(f"pip install {library.module}")
    X, y = plain_examples()
    data = Split(X, y, X, y)
    exact = LogisticRegression(C=1 / (linear.ALPHA * len(y)), tol=1e-10, max_iter=1000).fit(X, y)
    contender = study.Contender(library, None, 1)
    _, scores = study._train(LikeRcv1(), data, contender, Settings(400, 0.5, 0))
    least = LikeRcv1().score(data, exact)["objective"]
    assert least - 1e-6 <= scores["objective"] < 1.02 * least


def test_errors_of_ratings_are_those_of_numpy() -> None:
    data = MatrixCompletion().load(plan())
    model = MatrixFactorization(max_iter=2, tol=None, random_state=0).fit(data.known)
    scores = MatrixCompletion().score(data, model)
    for ratings, found in zip(data, scores.values(), strict=True):
        users, items = ratings.coords
        products = (model.user_factors_ @ model.item_factors_.T)[users, items]
        biases = model.user_biases_[users] + model.item_biases_[items]
        missed = ratings.data - (products + biases + model.mean_)
        assert found == pytest.approx(np.sqrt((missed**2).mean()), rel=1e-4)


def test_a_tenth_of_the_ratings_is_held_out_and_none_is_lost() -> None:
    every = MatrixCompletion().ratings(plan())
    known, held_out = MatrixCompletion().load(plan())
    assert held_out.nnz == pytest.approx(0.1 * every.nnz, rel=0.2)
    assert known.nnz + held_out.nnz == every.nnz
    np.testing.assert_array_equal((known + held_out).toarray(), every.toarray())


@pytest.mark.parametrize("biased", [False, True])
def test_factors_of_other_libraries_are_ranked_as_scikit_learn_does(biased: bool) -> None:
    random = np.random.default_rng(0)
    liked = sparse.coo_array((random.random((6, 30)) < 0.3).astype(np.float32))
    held_out = sparse.coo_array((random.random((6, 30)) < 0.2) * (1 - liked.toarray()))
    users, items = random.standard_normal((6, 4)), random.standard_normal((30, 4))
    biases = random.standard_normal(30) if biased else None
    data = Ratings(liked, held_out)
    scores = Ranking().score(data, ranking(data, users, items, biases))
    by_user = users @ items.T + (0 if biases is None else biases)
    seen = liked.toarray() > 0
    areas = [
        roc_auc_score(held_out.toarray()[user][~seen[user]], by_user[user][~seen[user]])
        for user in range(6)
    ]
    assert scores["test_area"] == pytest.approx(np.mean(areas))
    areas = [roc_auc_score(seen[user], by_user[user]) for user in range(6)]
    assert scores["train_area"] == pytest.approx(np.mean(areas))


def test_the_least_cut_is_exact_and_ours_is_hardly_above() -> None:
    subject = Cuts()
    data = subject.load(plan())
    (library,) = subject.libraries
    settings = Settings(100, 1.0, 0)
    _, exact = study._train(subject, data, study.Contender(library, None, 1), settings)
    network = library.prepare(data)
    n = len(data.y)
    assert exact["cut"] == pytest.approx(
        1e-5 * maximum_flow(network, n, n + 1).flow_value, rel=1e-4
    )
    ours = subject.score(data, subject.fit(data, "ordered", 2, settings))
    assert exact["cut"] <= 1.0001 * ours["cut"] <= 1.01 * exact["cut"]
    wrong = subject.score(data, np.where(data.truth == 1, 0, 1))
    assert wrong["test_error"] == 1.0


def test_unknown_users_and_items_are_given_the_mean() -> None:
    users = np.array([[1.0, 2.0], [np.nan, np.nan]], np.float32)
    model = Products(users, np.array([[3.0, 4.0]], np.float32), 3.5)
    found = model.predict_pairs(np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]))
    assert found.tolist() == [11.0, 3.5, 3.5, 3.5]


def library_scores(subject: SparseProblem, label: str, data: Any, epochs: int) -> dict[str, float]:
    """Scores of another library after training with two threads."""
    (library,) = (each for each in subject.libraries if each.label == label)
    pytest.importorskip(library.module, reason=command("peers"))
    contender = study.Contender(library, None, 2)
    return study._train(subject, data, contender, Settings(epochs, 0.05, 0))[1]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # libmf's
def test_libmf_completes() -> None:
    ratings = make_ratings_like("netflix", scale=2e-4)
    data = Ratings(ratings, ratings)
    assert library_scores(MatrixCompletion(), "libmf", data, 60)["train_error"] < 0.3


@pytest.mark.parametrize("label", [library.label for library in Ranking.libraries])
def test_libraries_rank(label: str) -> None:
    data = Ranking().load(plan())
    assert library_scores(Ranking(), label, data, 20)["train_area"] > 0.9


def test_a_library_that_is_not_installed_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (absent,) = (each for each in LikeRcv1.libraries if each.label == "snapml")
    monkeypatch.setattr(absent, "module", "no_such_module", raising=False)
    monkeypatch.setattr(LikeRcv1, "libraries", (absent,))
    document = measured("rcv1-shaped", tmp_path, "--workers", "1", "--sync", "mutex")
    assert "snapml" not in [row["contender"] for row in document["rows"]]
    line = f"Not installed: snapml; {command('peers')}."
    assert line in document["findings"]["rcv1-shaped"]
    assert "Not installed: snapml" in (tmp_path / "report.html").read_text()


def row(
    contender: str, workers: int, seconds: float, objective: float = 0.5, **more: Any
) -> FitRow:
    fields: dict[str, Any] = {
        "problem": "rcv1-shaped",
        "contender": contender,
        "sync": contender,
        "workers": workers,
        "epochs": 10,
        "seconds": Spread((seconds, 1.01 * seconds, 1.02 * seconds)),
        "scores": {
            name: Spread((value,) * 3)
            for name, value in (
                ("train_error", 0.1), ("test_error", 0.2), ("objective", objective),
            )
        },
    }  # fmt: skip
    return FitRow(**(fields | more))


def said(*rows: FitRow, cores: int = 2) -> str:
    return "\n".join(findings(LikeRcv1(), rows, cores))


def test_findings_say_where_lock_free_loses_and_wins() -> None:
    rows = [row("hogwild", 1, 2.0), row("hogwild", 2, 3.0), row("mutex", 2, 1.5)]
    text = said(*rows)
    assert "mutex with 2 workers was fastest: 1.52 s, 1.33x one worker (hogwild)" in text
    assert (
        "slower than mutex, the fastest blocking sync, with 2 workers: hogwild (2.00x the time)."
        in text
    )
    assert "2 workers are slower than one worker of the same sync under hogwild (1.50x" in text
    assert "preemption" not in text
    text = said(*rows, row("hogwild", 8, 1.0), row("mutex", 8, 4.0))
    assert (
        "faster than mutex, the fastest blocking sync, with 8 workers: hogwild (0.25x the time)."
        in text
    )
    assert "More workers than the 2 usable cores show what preemption" in text
    assert (
        "within the spread of mutex, the fastest blocking sync, with 2 workers: hogwild."
        in said(row("hogwild", 2, 1.0), row("mutex", 2, 1.01))
    )


def test_findings_name_the_rival_of_the_paper_and_what_the_race_cost() -> None:
    rows = [row("hogwild", 1, 2.0), row("hogwild", 2, 1.0, 0.6), row("round-robin", 2, 4.0)]
    text = said(*rows)
    assert "The paper's rival: round-robin took 4.00x the time of hogwild, with 2 workers." in text
    assert "Sharing cost hogwild with 2 workers most: objective 0.6000 instead of 0.5000" in text
    same = said(row("hogwild", 1, 2.0), row("hogwild", 2, 1.0, 0.501))
    assert "No sync's objective is worse than one worker's beyond the noise." in same


def test_findings_set_libraries_beside_the_fastest_and_leave_unshared_out() -> None:
    rows = [
        row("hogwild", 1, 2.0),
        row("unshared", 2, 0.1),
        row("snapml", 1, 4.0, 0.4, sync=None),
        row("snapml", 2, 3.0, 0.45, sync=None),
    ]
    text = said(*rows)
    assert "hogwild with 1 worker was fastest" in text
    assert "against hogwild with 1 worker: snapml with 2 workers 1.50x, objective 0.4500." in text
    assert "Faster than asyncopt" not in text
    quick = row("SGDClassifier", 1, 1.0, sync=None)
    assert "Faster than asyncopt: SGDClassifier." in said(*rows, quick)
    assert "Lock-free" not in text


def test_speedups_are_against_one_worker_of_the_same_contender() -> None:
    rows = with_speedups([row("hogwild", 1, 3.0), row("hogwild", 2, 2.0), row("mutex", 2, 1.0)])
    assert [each.speedup for each in rows] == [1.0, pytest.approx(1.5), None]
    cells = [line.cells[3] for line in table(LikeRcv1(), rows).rows]
    assert cells == ["1.00x", "1.50x", "-"]


def test_repeats_of_other_seeds_are_other_repeats() -> None:
    plans = [plan(seed=seed) for seed in range(3)]
    seeds = [LikeRcv1().settings(each, repeat).seed for each in plans for repeat in range(3)]
    assert len(set(seeds)) == len(seeds)


def test_recommendation_weighs_speed_and_error() -> None:
    one, two = row("hogwild", 1, 2.0), row("hogwild", 2, 1.0)
    assert recommendation(LikeRcv1(), [one, two], 2) == (
        "Use hogwild with 2 workers: 2.00x one worker."
    )
    worse = row("hogwild", 2, 1.0, 0.6)
    text = recommendation(LikeRcv1(), [one, worse, row("mutex", 2, 1.5)], 2)
    assert text.startswith("Use mutex with 2 workers: 1.33x one worker; hogwild with 2 workers was")
