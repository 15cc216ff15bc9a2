"""State mixed by races and rounding stays finite, and steps stay bounded."""

import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import thread_clone

from .twins import Twins, ours

N = 256
LR = 1e-3
GRADIENTS = (1000.0, 1.0)

ADAPTIVE: list[tuple[str, dict[str, Any], float]] = [
    # The largest step in units of lr, as src/asyncopt/sync/hogwild.h states it.
    ("Adam", {}, 20.1),
    ("Adam", {"amsgrad": True}, 20.1),
    ("AdamW", {"weight_decay": 0.0}, 20.1),
    ("Adagrad", {}, 1.0),
    ("RMSprop", {}, 10.0),
    ("RMSprop", {"momentum": 0.9}, 100.0),
    ("RMSprop", {"centered": True}, 10 * 2**12.5),
    ("RMSprop", {"centered": True, "momentum": 0.9}, 100 * 2**12.5),
]


def state_of(optimizer: Any, p: Parameter) -> dict[str, Tensor]:
    return {k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor) and v.dim() > 0}


@pytest.mark.parametrize("kind", ["constant", "noisy", "alternating"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_centered_rmsprop_with_bfloat16_state(
    kind: str, momentum: float, param_dtype: torch.dtype
) -> None:
    """Stochastic rounding takes square_avg below grad_avg^2; no root is taken of the difference."""
    generator = torch.Generator().manual_seed(0)
    p = Parameter(torch.zeros(N, dtype=param_dtype))
    optimizer = asyncopt.RMSprop(
        [p], lr=1e-5, centered=True, momentum=momentum, state_dtype=torch.bfloat16
    )
    for step in range(3000):
        g = torch.ones(N)
        if kind == "noisy":
            g += 0.01 * torch.randn(N, generator=generator)
        if kind == "alternating" and step % 2:
            g = -g
        p.grad = g.to(param_dtype)
        optimizer.step()
    assert bool(p.isfinite().all())
    assert all(bool(v.isfinite().all()) for v in state_of(optimizer, p).values())


def test_centered_rmsprop_with_a_constant_gradient() -> None:
    """In float32 the variance of a constant gradient is rounded to 0 or below it.

    torch.optim takes steps of lr / eps there, or of NaN.
    """
    p = Parameter(torch.zeros(N))
    optimizer = asyncopt.RMSprop([p], lr=LR, centered=True)
    p.grad = torch.linspace(0.5, 2.0, N)
    for _ in range(4000):
        before = p.detach().clone()
        optimizer.step()
        assert float((p.detach() - before).abs().max()) <= 10 * 2**12.5 * LR


@pytest.mark.parametrize("sync", ["hogwild", "atomic"])
@pytest.mark.parametrize(("rule", "options", "most"), ADAPTIVE, ids=str)
def test_two_workers(rule: str, options: dict[str, Any], most: float, sync: str) -> None:
    """Threads with gradients of 1000 and of 1 over one store."""
    p = Parameter(torch.zeros(N))
    optimizer = ours(rule)([p], lr=LR, sync=sync, **options).share_memory(workers=1)
    (other,) = thread_clone((optimizer,))
    steps = 500
    ready = threading.Barrier(2)

    def work(mine: Any, g: float) -> None:
        (q,) = mine.param_groups[0]["params"]
        q.grad = torch.full((N,), g)
        ready.wait()
        for _ in range(steps):
            mine.step()

    threads = [
        threading.Thread(target=work, args=(mine, g))
        for mine, g in zip((optimizer, other), GRADIENTS, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.store.version == 2 * steps
    assert bool(p.isfinite().all())
    assert float(p.detach().abs().max()) <= 2 * steps * most * LR
    for name, value in state_of(optimizer, p).items():
        assert bool(value.isfinite().all()), name
        if "sq" in name or name == "sum":
            assert bool((value >= 0).all()), name


@pytest.mark.parametrize(
    ("rule", "options"), [("Adam", {}), ("Adam", {"amsgrad": True}), ("AdamW", {})], ids=str
)
@pytest.mark.parametrize("sync", ["hogwild", "atomic"])
def test_a_first_moment_without_its_second(rule: str, options: dict[str, Any], sync: str) -> None:
    """The state that a lost update of exp_avg_sq leaves: the next step is within the bound."""
    p = Parameter(torch.zeros(N))
    optimizer = ours(rule)([p], lr=LR, sync=sync, **options)
    p.grad = torch.ones(N)
    for _ in range(10):
        optimizer.step()
    before = p.detach().clone()
    optimizer.state[p]["exp_avg"].fill_(100.0)  # of a gradient of 1000
    optimizer.step()
    moved = float((p.detach() - before).abs().max())
    unbiased = math.sqrt(1 - 0.999**11) / (1 - 0.9**11)
    assert moved == pytest.approx(20 * unbiased * LR, rel=1e-3)


def gradients(kind: str, betas: tuple[float, float]) -> list[float]:
    """Sequences that lead Adam to unusual moments.

    The growing one reaches the largest ratio of exp_avg to the root of exp_avg_sq: equality in the
    Cauchy-Schwarz inequality between the weights that both give to each gradient.
    """
    if kind == "growing":
        growth = betas[1] / betas[0] if 0 < betas[0] < betas[1] else 1.1
        return [min(growth**i, 1e12) for i in range(250)]
    if kind == "spike":
        return [1e-3] * 100 + [1e6] + [1e-3] * 100
    if kind == "zeros first":
        return [0.0] * 50 + [1.0] * 50
    assert kind == "squares underflow"
    return [1e-22 * (1 + i % 7) for i in range(200)]


BETAS = ((0.9, 0.999), (0.8, 0.95), (0.0, 0.9), (0.99, 0.9), (0.5, 0.0))
KINDS = ("growing", "spike", "zeros first", "squares underflow")


@pytest.mark.parametrize(
    ("betas", "kind"),
    # torch's lerp has another formula for weights of 0.5 and more; the spike would show it.
    [(b, k) for b in BETAS for k in KINDS if b[0] >= 0.5 or k != "spike"],
    ids=str,
)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_no_serial_step_is_limited(
    betas: tuple[float, float], kind: str, amsgrad: bool, dtype: torch.dtype
) -> None:
    """One worker takes torch's steps, also the largest that its gradients can lead to."""
    twins = Twins("Adam", [torch.zeros(3, dtype=dtype)], {"betas": betas, "amsgrad": amsgrad})
    for g in gradients(kind, betas):
        for optimizer, params in twins.sides:
            for p in params:
                p.grad = torch.full_like(p, g)
            optimizer.step()
    twins.check()
