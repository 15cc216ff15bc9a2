"""Step cost on a GPU: beside torch fused, and the copy bandwidth of the same rounds.

The floor is the time that a device-to-device copy takes for the bytes which the rule must move.
Every sample ends when the device is done; many steps are queued in one, as a training loop does.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.gpu import unavailable
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, Timed, interleave, record, replay
from benches.test_step import CASES, FOREACH, FUSED, OURS, SIZES, Size, check, rates, stepper

pytestmark = [
    pytest.mark.benchmark(timer=replay),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]

COPY = "copy"
COPIED = 50_000_000
CALLS = 20
"""Steps that are queued before the device is waited for."""

FLOOR_GOAL = 0.85
STREAMS_FROM = 50_000_000
"""Elements from which a step does not fit into the caches of a GPU."""

HAS_FUSED = ("SGD", "SGD momentum", "Adam", "AdamW", "Adagrad")


class Queued:
    """A sampler of a call that only queues work: seconds per call, until all of it is done."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.timed = Timed(self._run)

    def _run(self) -> None:
        for _ in range(CALLS):
            self.call()
        torch.cuda.synchronize()

    @property
    def calls_made(self) -> int:
        return self.timed.calls_made * CALLS

    def __call__(self) -> float:
        return self.timed() / CALLS


@pytest.mark.parametrize("size", [s for s in SIZES if not s.zero_grad], ids=lambda size: size.name)
@pytest.mark.parametrize("case", CASES)
def test_cuda_step(benchmark: Any, case: str, size: Size, quick: bool, say: Say) -> None:
    rule, options = CASES[case]
    elements = (quick and size.quick) or size.elements
    generator = torch.Generator("cuda").manual_seed(0)
    start, grads = (
        [
            torch.randn(elements, generator=generator, device="cuda").requires_grad_(False)
            for _ in range(size.tensors)
        ]
        for _ in range(2)
    )
    rival = FUSED if case in HAS_FUSED else FOREACH
    steppers = {
        OURS: stepper(asyncopt, rule, start, grads, **options),
        rival: stepper(torch.optim, rule, start, grads, **options, **{rival.split()[1]: True}),
    }
    queued = {name: Queued(s.opt.step) for name, s in steppers.items()}
    moved = {name: s.bytes_per_step() for name, s in steppers.items()}
    samplers: dict[str, Any] = dict(queued)
    if elements * size.tensors >= STREAMS_FROM:
        a, b = (torch.ones(COPIED, device="cuda") for _ in range(2))
        copy = Queued(lambda: a.copy_(b))
        samplers[COPY] = lambda: copy() * moved[OURS] / (2 * a.nbytes)
        moved[COPY] = moved[OURS]
    comparison = interleave(samplers, rounds=3 if quick else ROUNDS)
    pairs = [Pair(OURS, rival, 1.0)]
    if COPY in samplers:
        pairs.append(Pair(OURS, COPY, FLOOR_GOAL))
    lines = record(
        benchmark,
        comparison,
        pairs,
        suite="cuda",
        case={
            "rule": case,
            "size": size.name,
            "elements": elements,
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
        },
        rows=rates(comparison, moved),
    )
    for line in lines:
        say(line)
    check(steppers[OURS], queued[OURS].calls_made, case, start, grads, bf16=False)
