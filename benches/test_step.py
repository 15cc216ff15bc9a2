"""Step cost: every rule x size x threads, beside torch fused, torch foreach and the floor.

Contenders of one case step from the same parameters with the same gradients. After the clock
stops, every asyncopt contender's parameters must equal those of a fresh torch optimizer that
took as many steps.

The floor of a large step is the best streaming bandwidth that torch reaches in the same rounds
(triad, copy, in-place axpy): its time is that of moving the bytes which the rule must move, so
"asyncopt / floor" reads "x of the floor".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import asyncopt
from benches.conftest import Say
from benches.interleave import ROUNDS, Comparison, Pair, Timed, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

OURS, FLAT, BF16 = "asyncopt", "asyncopt flat_grads", "asyncopt bfloat16 state"
FUSED, FOREACH = "torch fused", "torch foreach"


@dataclass(frozen=True)
class Size:
    """Shapes to step: `tensors` tensors of `elements` each."""

    name: str
    tensors: int
    elements: int
    quick: int = 0
    """Elements under `--quick`, where that is fewer."""
    zero_grad: bool = False
    """Whether `zero_grad` is on the clock, too: `flat_grads` makes it cheap."""


SIZES = (
    Size("200 x 64", 200, 64),
    Size("200 x 64 with zero_grad", 200, 64, zero_grad=True),
    Size("10k", 1, 10_000),
    Size("1M", 1, 1_000_000),
    Size("50M", 1, 50_000_000, quick=4_000_000),
)
LARGEST = SIZES[-1].name
STREAMS_FROM = 1_000_000
"""Elements from which a step streams: there the floor and 16-bit state are measured."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {rule: (rule, {}) for rule in asyncopt.rules()}
CASES["SGD momentum"] = ("SGD", {"momentum": 0.9})
STATELESS = ("SGD",)

GOALS: dict[tuple[str, str], dict[str, float]] = {
    ("SGD", "200 x 64"): {OURS: 3},
    ("Adam", "200 x 64"): {OURS: 10},
    ("SGD", "10k"): {OURS: 3},
    ("Adam", "10k"): {OURS: 5},
    ("Adam", "50M"): {OURS: 1, BF16: 1.35},
}
LARGE_GOALS = {OURS: 1.0}
FLOOR_GOAL = 0.9


@dataclass
class Stepper:
    """An optimizer on its own copy of the parameters."""

    opt: torch.optim.Optimizer
    params: list[Tensor]

    def values(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.params])

    def timed(self, grads: Sequence[Tensor], zero_grad: bool) -> Timed:
        """A sampler of steps; those of several tensors zero and refill their gradients each time.

        Args:
            grads: the gradients, written off the clock.
            zero_grad: put `zero_grad` on the clock, behind the step.
        """
        if len(grads) == 1:
            return Timed(self.opt.step)

        def refill() -> None:
            if not zero_grad:
                self.opt.zero_grad(set_to_none=False)
            torch._foreach_copy_([p.grad for p in self.params if p.grad is not None], list(grads))

        def step_and_zero() -> None:
            self.opt.step()
            self.opt.zero_grad(set_to_none=False)

        return Timed(step_and_zero if zero_grad else self.opt.step, before=refill)

    def bytes_per_step(self) -> int:
        """Bytes a step must move: gradients read, parameters and full-sized state read and written.

        Valid after the first step, when torch's optimizers have their state.
        """
        total = 0
        for p in self.params:
            total += 3 * p.nbytes
            state = self.opt.state[p].values()
            total += sum(2 * s.nbytes for s in state if isinstance(s, Tensor) and s.numel() > 1)
        return total


def stepper(
    module: Any, rule: str, start: Sequence[Tensor], grads: Sequence[Tensor], **options: Any
) -> Stepper:
    """`module.rule(copy of start, **options)` with `grads` in place (copied if flat or several)."""
    params = [p.clone().requires_grad_() for p in start]
    opt = getattr(module, rule)(params, **options)
    for p, g in zip(params, grads, strict=True):
        if p.grad is None:
            p.grad = g if len(grads) == 1 else g.clone()
        else:  # flat_grads: a view of the optimizer's buffer
            p.grad.copy_(g)
    return Stepper(opt, params)


def has_fused(rule: str) -> bool:
    """Whether torch.optim has a fused CPU kernel for the rule."""
    try:
        getattr(torch.optim, rule)([torch.zeros(1, requires_grad=True)], fused=True)
    except (TypeError, RuntimeError):
        return False
    return True


def streams(elements: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Streaming loops over `elements` float32 and the bytes each must move."""
    a, b, c = (torch.ones(elements) for _ in range(3))
    return {
        "triad": (lambda: torch.add(b, c, alpha=0.5, out=a), 12 * elements),
        "copy": (lambda: a.copy_(b), 8 * elements),
        "axpy in place": (lambda: a.add_(b, alpha=1e-9), 12 * elements),
    }


def scaled(call: Callable[[], object], ratio: float) -> Callable[[], float]:
    """Sampler of `call` that reports `ratio` times its seconds."""
    sample = Timed(call)
    return lambda: ratio * sample()


def rates(comparison: Comparison, moved: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Bandwidth per contender that moves `moved` bytes per step."""
    return {
        name: {"gigabytes_per_second": moved[name] / comparison.median(name) / 1e9}
        for name in comparison.samples
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
@pytest.mark.parametrize("case", CASES)
def test_step(
    benchmark: Any,
    case: str,
    size: Size,
    threads: int,
    torch_threads: Callable[[int], None],
    quick: bool,
    say: Say,
) -> None:
    torch_threads(threads)
    rule, options = CASES[case]
    elements = (quick and size.quick) or size.elements
    large = elements >= STREAMS_FROM
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(elements, generator=generator) for _ in range(size.tensors)]
    grads = [torch.randn(elements, generator=generator) for _ in range(size.tensors)]

    def make(module: Any, **more: Any) -> Stepper:
        return stepper(module, rule, start, grads, **options, **more)

    steppers = {OURS: make(asyncopt)}
    if size.tensors > 1:
        steppers[FLAT] = make(asyncopt, flat_grads=True)
    if large and case not in STATELESS:
        steppers[BF16] = make(asyncopt, state_dtype=torch.bfloat16)
    fused = has_fused(rule)
    if fused:
        steppers[FUSED] = make(torch.optim, fused=True)
    steppers[FOREACH] = make(torch.optim, foreach=True)

    timed = {name: s.timed(grads, size.zero_grad) for name, s in steppers.items()}
    moved = {name: s.bytes_per_step() for name, s in steppers.items()}
    samplers: dict[str, Callable[[], float]] = dict(timed)
    if large:
        for name, (call, nbytes) in streams(elements).items():
            samplers[name] = scaled(call, moved[OURS] / nbytes)
            moved[name] = moved[OURS]
    comparison = interleave(samplers, rounds=3 if quick else ROUNDS)

    rival = FUSED if fused else FOREACH
    goals = LARGE_GOALS if size.elements >= STREAMS_FROM else {}
    goals = goals | GOALS.get((case, size.name), {})
    pairs = [Pair(name, rival, goals.get(name)) for name in timed if name in (OURS, FLAT, BF16)]
    if fused:
        pairs.append(Pair(OURS, FOREACH))
    if large:
        floor = min((name for name in samplers if name not in timed), key=comparison.median)
        pairs.append(Pair(OURS, floor, FLOOR_GOAL if size.name == LARGEST else None))
    lines = record(
        benchmark,
        comparison,
        pairs,
        suite="step",
        case={"rule": case, "size": size.name, "elements": elements, "threads": threads},
        rows=rates(comparison, moved),
    )
    for line in lines:
        say(line)

    samplers.clear()
    for name in (FUSED, FOREACH):  # their memory is needed for the reference
        steppers.pop(name, None)
    for name in list(steppers):
        check(steppers.pop(name), timed.pop(name).calls_made, case, start, grads, name == BF16)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rule", ["SGD", "Adam"])
def test_step_after_torch(
    benchmark: Any, rule: str, threads: int, torch_threads: Callable[[int], None], say: Say
) -> None:
    """A step that follows torch work at once, as it follows `backward()` in a training loop.

    torch's pool still spins on the other cores then; a step that brings threads of its own has to
    share them with it.
    """
    torch_threads(threads)
    start, grads = [torch.randn(1_000_000)], [torch.randn(1_000_000)]
    load = torch.ones(1_000_000)
    steppers = {
        OURS: stepper(asyncopt, rule, start, grads),
        FUSED: stepper(torch.optim, rule, start, grads, fused=True),
    }
    timed = {name: Timed(s.opt.step, before=lambda: load.add_(1.0)) for name, s in steppers.items()}
    comparison = interleave(timed)
    moved = {name: s.bytes_per_step() for name, s in steppers.items()}
    lines = record(
        benchmark,
        comparison,
        [Pair(OURS, FUSED, 1.0)],
        suite="step",
        case={"rule": rule, "size": "1M, after torch", "elements": 1_000_000, "threads": threads},
        rows=rates(comparison, moved),
    )
    for line in lines:
        say(line)
    check(steppers[OURS], timed[OURS].calls_made, rule, start, grads, bf16=False)


def check(
    ours: Stepper,
    steps: int,
    case: str,
    start: Sequence[Tensor],
    grads: Sequence[Tensor],
    bf16: bool,
) -> None:
    """Hold `ours` against torch.optim after the same number of steps.

    Rules work element by element, so the reference steps the concatenation of all tensors: one
    call instead of hundreds. 16-bit state is right on average only: its rounding is random.
    """
    rule, options = CASES[case]
    fast = {"fused": True} if has_fused(rule) else {"foreach": True}
    flat = torch.cat(list(start))
    reference = stepper(torch.optim, rule, [flat], [torch.cat(list(grads))], **options, **fast)
    for _ in range(steps):
        reference.opt.step()
    expected = reference.values()
    travel = (expected - flat).abs_().mean().item()
    error = (ours.values() - expected).abs_()
    assert travel > 0
    if bf16:
        assert error.mean().item() < 0.05 * travel
    else:
        # Each step may round each value once: half a unit in the last place of a float32.
        rounding = max(1e-6, steps * 2.0**-24)
        assert error.max().item() < 1e-3 * travel + rounding * expected.abs().max().item()
