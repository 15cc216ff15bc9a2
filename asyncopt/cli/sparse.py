"""``asyncopt compare`` where the problem is a sparse one: its options, checked."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from asyncopt.cli.options import checked
from asyncopt.studies.dense.plan import QUICK_WORKERS, pick
from asyncopt.studies.dense.problems import PROBLEMS
from asyncopt.studies.sparse import study
from asyncopt.studies.sparse.plan import WORKERS, Plan
from asyncopt.studies.sparse.subject import in_order

SYNCS = in_order(dict.fromkeys(sync for each in study.SUBJECTS.values() for sync in each.syncs))
DENSE_ONLY = ("rule", "mode", "audit", "kill_rate", "delay", "max_staleness")


def are_sparse(problems: Sequence[str]) -> bool:
    """Whether all problems are sparse ones; False where there are none.

    Raises ValueError: some are and some are not, or one is not known.
    """
    if not problems:
        return False
    picked = pick(problems, (*PROBLEMS, *study.SUBJECTS), "problem")
    sparse = [name for name in picked if name in study.SUBJECTS]
    if sparse and len(sparse) < len(picked):
        dense = next(name for name in picked if name not in sparse)
        raise ValueError(
            f"expected dense problems or sparse ones, which have other syncs; got {dense} and "
            f"{sparse[0]}; run them one after the other"
        )
    return bool(sparse)


def make_plan(
    context: typer.Context,
    problems: Sequence[str],
    syncs: Sequence[str],
    *,
    workers: tuple[int, ...] | None,
    repeats: int | None,
    epochs: int | None,
    lr: float | None,
    seed: int,
    quick: bool,
) -> Plan:
    """What to measure.

    Args:
        context: of the command, that tells which options were given.
        problems: names of sparse ones, in any case.
        syncs: names; none: all.
        workers: None: the paper's.
        repeats: None: 3.
        epochs: None: by problem.
        lr: None: by problem.
        seed: of data, split and order.
        quick: whether to take less of everything.

    Raises:
        typer.BadParameter: an option means nothing here, or a sync is not one of the problems'.
    """
    for name in DENSE_ONLY:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(
                "expected none with a sparse problem, whose workers are threads of one call that "
                f"take SGD's steps, got it with {problems[0]}; leave it out",
                param_hint=f"--{name.replace('_', '-')}",
            )
    picked = pick(problems, (*study.SUBJECTS,), "problem")
    return Plan(
        problems=picked,
        syncs=checked("--sync", lambda: _syncs(picked, syncs)),
        workers=workers or (QUICK_WORKERS if quick else WORKERS),
        repeats=repeats or 3,
        epochs=epochs,
        lr=lr,
        seed=seed,
        quick=quick,
    )


def _syncs(problems: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` (all where empty).

    Raises ValueError: one is not known, or a problem has none of them.
    """
    picked = pick(names, SYNCS, "sync")
    for problem in problems:
        subject = study.SUBJECTS[problem]
        if not subject.picked(picked):
            raise ValueError(
                f"expected some that {problem} has, {', '.join(subject.syncs)}; got "
                f"{', '.join(picked)}"
            )
    return picked
