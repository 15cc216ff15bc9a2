"""What a reduction is judged by; workers, which need no scikit-learn, do not import it."""

from __future__ import annotations

from sklearn.metrics import label_ranking_average_precision_score
from torch import Tensor


def average_precision(reduced: Tensor, y: Tensor) -> float:
    """How well points find those of their class: mean average precision of retrieval.

    Every point is a query; the others are ranked by cosine, and those of its class are relevant.

    Args:
        reduced: (n, d), rows of length 1.
        y: (n,), the classes, each of two points at least.

    Returns:
        1 where each point's class is closer to it than all others.
    """
    likeness = (reduced @ reduced.T).fill_diagonal_(-2.0)  # itself comes last
    relevant = (y[:, None] == y).fill_diagonal_(False)
    score = label_ranking_average_precision_score(relevant.numpy(), likeness.numpy())
    return float(score)
