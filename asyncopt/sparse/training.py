"""The passes of one linear model over its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt._limits import available_memory
from asyncopt.errors import SegmentError
from asyncopt.sparse.blocks import Blocks
from asyncopt.sparse.convergence import Patience, Rest
from asyncopt.sparse.custom_loss import engine_loss
from asyncopt.sparse.exact import Exact
from asyncopt.sparse.examples import ColumnSums, Examples
from asyncopt.sparse.settings import SOLVERS, Settings
from asyncopt.sparse.state import State

__all__ = ["leaders", "train"]

DIVISOR, LOWEST = 5, 1e-6
"""The divisor and the smallest value of the learning rate ``"adaptive"``, as in scikit-learn."""
STEEPEST = 1e30
"""Curvature: products with a learning rate and a number of examples fit float32."""

NOTHING_KEPT = {"notes": None, "anchors": None, "base": None}
"""Arguments of the engine for gradient descent, which keeps no numbers of examples."""

_Floats = npt.NDArray[np.float32]


def train(
    state: State,
    examples: Examples,
    sums: ColumnSums,
    targets: _Floats,
    weights: _Floats | None,
    settings: Settings,
    blocks: Blocks,
    *,
    passes: int,
    patience: Patience | Rest | None,
    random: np.random.RandomState | None,
    threads: int,
    sync: str,
    report: Callable[[int, State, float], None] | None = None,
) -> tuple[int, bool]:
    """Train a model; with one thread, the same bits for the same arguments.

    Args:
        state: where it starts, and is left; of no use after an error.
        examples: in the order of the first pass, about.
        sums: of their columns.
        targets: float32 of shape (examples,), in the examples' order; -1 or 1 for classes.
        weights: of the examples, likewise; None: all 1.
        settings: the step.
        blocks: of the examples.
        passes: over all examples, at most.
        patience: may end it earlier.
        random: shuffles the blocks of each pass; None: the examples' order.
        threads: that train.
        sync: how they share the weights.
        report: called after each pass that may move weights, with the number of passes, the state
            and the mean loss.

    Returns:
        The number of passes, and whether ``patience`` ended them or has no criterion.

    Raises:
        ValueError: the weights, or the losses, are not finite any more.
        SegmentError: there is no memory for the weights.
    """
    columns = examples.columns_by_frequency
    loss_name, curvature, custom = engine_loss(settings.loss)
    shape: dict[str, Any] = {
        "loss": loss_name,
        "step": settings.step,
        "sync": sync,
        "columns": len(columns),
        "workers": threads,
        "examples": len(examples),
    }
    _check_available(_core.LinearTrainer.bytes_needed(**shape))
    trainer = _core.LinearTrainer(**shape, custom=custom)
    if not settings.average:
        state.averaged = 0
    elif not state.averaged:
        state.sums[:] = 0
    since = 0
    if settings.average:
        begin = max(state.t, settings.average - 1)
        since = state.t - state.averaged if state.averaged else begin
    mean_weight = 1.0 if weights is None else float(weights.mean(dtype=np.float64))
    rows = len(examples)
    order = np.arange(-(-rows // blocks.rows))
    spacing = sums.spacing()[columns]
    if settings.step in SOLVERS:
        state.sums[:] = 0  # the mean of the gradients in the notes, which are 0
    state.load(trainer, examples)
    curvatures = sums.curvatures * (curvature * mean_weight)
    call: dict[str, Any] = {
        "begin": examples.begin,
        "columns": examples.columns,
        "values": examples.values,
        "targets": targets,
        "weights": weights,
    }
    exact: Exact | None = None
    if settings.step == "dual":
        steep = curvature * mean_weight * sums.mean_square_norm()
        exact = Exact(trainer, settings, call, steep, np.ones(len(columns), bool))
    elif settings.step in SOLVERS:
        steep = _steepest(examples, weights, curvature)
        exact = Exact(trainer, settings, call, steep, spacing > 0)
    call = {
        **call,
        **(NOTHING_KEPT if exact is None else exact.arguments),
        "block": blocks.rows,
        "pieces": blocks.pieces,
        "spacing": spacing,
        "curvatures": np.minimum(curvatures[columns], STEEPEST).astype(np.float32),
    }
    ended = False
    done = 0
    loss = 0.0
    while done < passes and not ended:
        if exact is not None and exact.begin(done, loss / rows):
            done += 1
            state.t += rows
            continue
        if exact is not None:
            settings = exact.settings
        loss = trainer.run(
            **call,
            numbers=[*settings.of_step, rows],
            order=order if random is None else random.permutation(order),
            t=state.t,
            since=since,
        )
        done += 1
        if not np.isfinite(loss):
            break
        state.t += rows
        if settings.average:
            state.averaged = max(state.t - since, 0)
        needs_state = patience is not None and patience.needs_state
        if needs_state or report is not None:
            state.save(trainer, examples, None if exact is None else exact.weights)
        if report is not None:
            report(done, state, loss / rows)
        if patience is not None and needs_state:
            ended = patience.ends(state, loss / rows)
            divides = settings.divides and settings.eta0 > LOWEST
            if ended and divides and isinstance(patience, Patience):
                settings = settings._replace(eta0=settings.eta0 / DIVISOR)
                patience.start_over()
                ended = False
            if ended and exact is not None and isinstance(patience, Rest):
                ended = exact.at_optimum(patience.tol or 0.0, done, done == passes)
    state.save(trainer, examples, None if exact is None else exact.weights)
    restored = patience is not None and patience.restore_best(state)
    if not state.finite or not (restored or np.isfinite(loss)):
        raise ValueError(_not_finite(settings))
    state.leaders = leaders(settings, threads, sync)
    return done, ended or patience is None or not patience.can_end


def leaders(settings: Settings, threads: int, sync: str) -> int:
    """`State.leaders` after training: each of several models counts its own examples."""
    if settings.step != "ftrl":
        return 0
    return threads if sync == "unshared" else 1


def _not_finite(settings: Settings) -> str:
    if settings.step not in SOLVERS:
        return (
            "eta0: expected a learning rate at which weights and losses stay finite, got "
            f"{settings.eta0:g}; lower it, scale the features and targets"
            + (", or use learning_rate='adagrad'" if settings.step.endswith("scaled") else "")
        )
    if isinstance(settings.loss, str):
        return "X: expected values for which weights stay finite in float32; scale the features"
    return (
        "loss: expected a curvature of at least the derivative's greatest slope, got "
        f"{settings.loss.curvature:g}; raise it"
    )


def _steepest(examples: Examples, weights: _Floats | None, curvature: float) -> float:
    """The largest curvature of an example's loss; 1/3 where there is none."""
    entries = examples.begin[-1]
    squares = np.square(examples.values[:entries], dtype=np.float64)
    norms = np.diff(np.concatenate([[0.0], np.cumsum(squares)])[examples.begin])
    largest = float((norms if weights is None else norms * weights).max(initial=0))
    return curvature * largest if largest > 0 else 1 / 3


def _check_available(nbytes: int) -> None:
    """Raises SegmentError if the kernel would end processes to make room for so much memory."""
    available = available_memory()
    if available is not None and nbytes > available.nbytes:
        raise SegmentError(
            f"X: expected columns whose weights fit in memory, got a model of {nbytes:,} bytes in "
            f"all threads, of which only {available.nbytes:,} are available {available.where}; use "
            "fewer columns, or fewer threads"
        )
