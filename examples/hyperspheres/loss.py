"""The training loss of a reduction: it pulls points of one sphere together."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 0.1


def contrastive_loss(reduced: Tensor, y: Tensor) -> Tensor:
    """Supervised contrastive loss: each point must identify those of its class.

    Khosla et al., arXiv 2004.11362, equation 2. The only point of a class counts as 0.

    Args:
        reduced: (n, d), rows of length 1.
        y: (n,), the classes.

    Returns:
        The mean over points, a scalar.
    """
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    likeness = (reduced @ reduced.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    same = (y[:, None] == y) & ~itself
    surprise = -likeness.log_softmax(1).masked_fill(~same, 0.0).sum(1)
    return (surprise / same.sum(1).clamp(min=1)).mean()
