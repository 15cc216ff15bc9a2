"""The score of a reduction. Workers do not import this module and need no scikit-learn."""

from __future__ import annotations

from sklearn.metrics import label_ranking_average_precision_score
from torch import Tensor


def average_precision(reduced: Tensor, y: Tensor) -> float:
    """Mean average precision of retrieval: each point should find those of its class.

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
