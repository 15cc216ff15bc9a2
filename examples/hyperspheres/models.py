"""The network that reduces points, and its parameter groups."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

WIDTH, BLOCKS, REDUCED = 256, 3, 16


class Residual(nn.Module):
    """x + f(x), f of two linear layers, each behind batch normalization and ReLU.

    He et al., arXiv 1603.05027.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residue = nn.Sequential(*_activated(width, width), *_activated(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) to (n, width)."""
        residue: Tensor = self.residue(x)
        return x + residue


class Reducer(nn.Module):
    """A perceptron with skip connections, from many dimensions onto the unit sphere of few.

    Args:
        dimensions: of the points.
        width: of the hidden layers.
        blocks: residual ones.
        reduced: dimensions of the output.
    """

    def __init__(
        self, dimensions: int, width: int = WIDTH, blocks: int = BLOCKS, reduced: int = REDUCED
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dimensions, width),
            *(Residual(width) for _ in range(blocks)),
            *_activated(width, reduced),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, dimensions) to (n, reduced), rows of length 1."""
        return functional.normalize(self.layers(x))


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Weights of linear layers, and the vectors: biases, and scales of the normalization."""
    parameters = list(model.parameters())
    return {
        "weights": [parameter for parameter in parameters if parameter.ndim > 1],
        "vectors": [parameter for parameter in parameters if parameter.ndim <= 1],
    }


def _activated(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.BatchNorm1d(inputs), nn.ReLU(), nn.Linear(inputs, outputs)
