"""Memory in which workers note what they do, and that outlives them."""

from __future__ import annotations

import torch
from torch import Tensor

LINE = 8  # int64 per cache line: each worker counts on a line of its own


def shared_zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Zeros in memory that worker processes share."""
    memory = torch.zeros(*size, dtype=dtype)
    memory.share_memory_()
    return memory
