"""Learning rates over a job, by torch's own schedulers."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
)

CONSTANT = "constant"
SCHEDULES = {
    CONSTANT: "the same rate throughout",
    "cosine": "from the full rate down to zero along half a cosine",
    "restarts": "the same three times over, each time from the full rate",
}
CYCLES = 3


def make_scheduler(name: str, optimizer: Optimizer, steps: int) -> LRScheduler | None:
    """The scheduler of a job of so many steps; None where the rate stays as it is."""
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    if name == "restarts":
        return CosineAnnealingWarmRestarts(optimizer, T_0=max(1, -(-steps // CYCLES)))
    return None
