"""``Worker.schedule``: torch's own schedulers at the same step are the reference."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

import asyncopt
from asyncopt.run import Worker, launch

from . import loops

Make = Callable[[torch.optim.Optimizer], LRScheduler]
S = torch_schedulers


def halve(step: int) -> float:
    return 0.5 ** (step // 3)


def sequential(optimizer: torch.optim.Optimizer) -> LRScheduler:
    warm = S.LinearLR(optimizer, 0.1, total_iters=4)
    rest = S.CosineAnnealingLR(optimizer, 10)
    return S.SequentialLR(optimizer, [warm, rest, S.ConstantLR(optimizer)], milestones=[4, 15])


def chained(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return S.ChainedScheduler([S.ConstantLR(optimizer), S.ExponentialLR(optimizer, 0.9)])


def nested(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return S.ChainedScheduler([sequential(optimizer), S.StepLR(optimizer, 7)])


MAKERS: dict[str, Make] = {
    "LambdaLR": lambda o: S.LambdaLR(o, halve),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, halve),
    "StepLR": lambda o: S.StepLR(o, 5),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [3, 8, 21]),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: S.LinearLR(o, 0.2, total_iters=9),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.93),
    "PolynomialLR": lambda o: S.PolynomialLR(o, 30, 1.5),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 11),
    "CosineAnnealingWarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.01, 0.3, step_size_up=5),
    "OneCycleLR": lambda o: S.OneCycleLR(o, 0.4, total_steps=40),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "nested": nested,
}


def test_every_scheduler_of_torch_is_tried() -> None:
    known = {n for n, kind in vars(S).items() if isinstance(kind, type) and n.endswith("LR")}
    known |= {"CosineAnnealingWarmRestarts", "ChainedScheduler"}
    known -= {"ReduceLROnPlateau", "LRScheduler", "_LRScheduler", "SWALR"}
    assert known <= set(MAKERS)


def hyper(optimizer: Any) -> list[dict[str, Any]]:
    """All that a schedule may change."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]


def make(kind: Any, **options: Any) -> Any:
    """An optimizer with two groups, whose rates and momenta may be cycled."""
    first, second = parameters()
    groups = [{"params": [first]}, {"params": [second], "lr": 0.02}]
    return kind(groups, lr=0.1, momentum=0.9, **options)


def push(optimizer: Any, pushes: int) -> None:
    for _ in range(pushes):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_the_rates_are_those_of_torch_at_that_step(name: str, every: int) -> None:
    ours, theirs = make(asyncopt.SGD), make(torch.optim.SGD)
    ours.share_memory(1)
    worker = Worker(0, 1, lambda timeout: None, optimizers=[ours])
    got, expected = MAKERS[name](ours), MAKERS[name](theirs)
    step = pushed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pushes in (0, 1, 1, 4, 0, 9, 2, 17, 1):  # by whomever
            push(ours, pushes)
            pushed += pushes
            worker.schedule(got, every)
            for _ in range(pushed // every - step):
                push(theirs, 1)
                expected.step()
            step = pushed // every
            for mine, its in zip(hyper(ours), hyper(theirs), strict=True):
                assert {k: mine[k] for k in its if k in mine} == its | {
                    k: mine[k] for k in its if k not in ("lr", "momentum", "initial_lr")
                }
            assert got.get_last_lr() == expected.get_last_lr()


def test_a_late_worker_sees_what_the_others_see() -> None:
    optimizer = make(asyncopt.SGD).share_memory(1)
    worker = Worker(0, 1, lambda timeout: None, optimizers=[optimizer])
    early = S.ExponentialLR(optimizer, 0.9)
    rates = []
    for _ in range(30):
        push(optimizer, 1)
        worker.schedule(early)
        rates.append(early.get_last_lr())
    for group in optimizer.param_groups:  # as a restarted worker gets it
        group["lr"] = group["initial_lr"]
    late = S.ExponentialLR(optimizer, 0.9)
    del optimizer.step  # pickling leaves out what torch's schedulers put there; they would warn
    worker.schedule(late)
    assert late.get_last_lr() == rates[-1]


@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("made", ["here", "in fn"])
def test_all_workers_of_a_run_follow_one_schedule(made: str, mode: str) -> None:
    model, x, y = loops.regression()
    optimizer = asyncopt.Adam(model.parameters(), lr=0.01, sync="mutex")
    scheduler = loops.one_cycle(optimizer) if made == "here" else None
    run = launch(loops.scheduled, (model, optimizer, scheduler, (x, y)), workers=2, mode=mode)
    reference = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    expected = loops.one_cycle(reference)
    rates = [(hyper(reference)[0]["lr"], hyper(reference)[0]["betas"])]
    for _ in range(45):
        reference.step()
        expected.step()
        rates.append((hyper(reference)[0]["lr"], hyper(reference)[0]["betas"]))
    for seen, last, modules in run.results:
        assert len(seen) > 0
        assert set(seen) <= set(rates)
        assert sorted(seen, key=rates.index) == seen
        assert last == rates[45]
        assert not [name for name in modules if name.startswith("torch._dynamo")]


def plateau(optimizer: Any) -> Any:
    return S.ReduceLROnPlateau(optimizer)


def ahead(optimizer: Any) -> Any:
    scheduler = S.StepLR(optimizer, 3)
    push(optimizer, 1)
    scheduler.step()
    scheduler.step()
    return scheduler


def foreign(optimizer: Any) -> Any:
    return S.StepLR(make(torch.optim.SGD), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "every", "kind", "message"),
    [
        (plateau, 1, TypeError, r"scheduler: .* got ReduceLROnPlateau, which depends on a metric"),
        (ahead, 1, ValueError, r"scheduler: .* passed the run's step 1, got one at step 2; leave"),
        (foreign, 1, ValueError, r"scheduler: expected one of an optimizer in this worker's args"),
        (lambda o: o, 1, TypeError, r"scheduler: .* torch\.optim\.lr_scheduler, got SGD"),
        (functools.partial(S.StepLR, step_size=1), 0, ValueError, r"every: .* >= 1, got 0"),
        (functools.partial(S.StepLR, step_size=1), 1.0, ValueError, r"every: .* >= 1, got 1\.0"),
    ],
)
def test_what_cannot_follow_the_run(
    scheduler: Any, every: Any, kind: type[Exception], message: str
) -> None:
    optimizer = make(asyncopt.SGD).share_memory(1)
    worker = Worker(0, 1, lambda timeout: None, optimizers=[optimizer])
    made = scheduler(optimizer)
    before = hyper(optimizer)
    with pytest.raises(kind, match=f"^{message}"):
        worker.schedule(made, every)
    assert hyper(optimizer) == before


def test_the_rates_of_an_averaging_optimizer_are_those_of_the_one_in_it() -> None:
    from asyncopt.optim import LocalSteps

    inner = make(torch.optim.SGD)
    outer: Any = LocalSteps(inner, every=1).share_memory(1)
    worker = Worker(0, 1, lambda timeout: None, optimizers=[outer])
    for scheduler in (S.ExponentialLR(inner, 0.5), S.ExponentialLR(outer, 0.5)):
        push(outer, 2)
        worker.schedule(scheduler)
        assert scheduler.last_epoch == outer.store.version
