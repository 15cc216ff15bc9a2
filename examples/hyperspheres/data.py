"""Points of hyperspheres of low intrinsic dimension in a space of many dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CLASSES = 20
INTRINSIC = 6  # dimensions of a sphere's surface, which spans one more
APART = 0.3  # rough distance of a centre from the origin: all spheres interlock
NOISE = 0.07  # standard deviation in every dimension
TRAINING, HELD_OUT = 400, 50  # points of a class


class Points(NamedTuple):
    """x: float32 (n, dimensions); y: int64 (n,), the number of the sphere that each is of."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Hypersphere:
    """A sphere in an affine subspace.

    Attributes:
        centre: float64 (dimensions,).
        radius: of the surface around it.
        frame: float64 (dimensions, intrinsic + 1), an orthonormal basis of its subspace.
    """

    centre: Tensor
    radius: float
    frame: Tensor

    @classmethod
    def draw(cls, dimensions: int, intrinsic: int, generator: torch.Generator) -> Hypersphere:
        """A random one: a centre near the origin, a radius about 1, a uniform random subspace."""
        normal = torch.randn(dimensions, intrinsic + 1, generator=generator, dtype=torch.float64)
        centre = torch.randn(dimensions, generator=generator, dtype=torch.float64)
        radius = 0.8 + 0.4 * torch.rand((), generator=generator).item()
        return cls(centre * APART / dimensions**0.5, radius, torch.linalg.qr(normal).Q)

    def points(self, count: int, noise: float, generator: torch.Generator) -> Tensor:
        """Uniform on the surface, and then moved.

        Args:
            count: how many.
            noise: standard deviation of the move in every dimension.
            generator: of points and noise.

        Returns:
            float64 of shape (count, dimensions).
        """
        dimensions, spanned = self.frame.shape
        drawn = torch.randn(count, spanned, generator=generator, dtype=torch.float64)
        surface = torch.nn.functional.normalize(drawn) @ self.frame.T
        moves = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
        return self.centre + self.radius * surface + noise * moves


def make(dimensions: int, seed: int, training: int = TRAINING) -> tuple[Points, Points]:
    """Points to train on, and points of the same spheres that are held out.

    Args:
        dimensions: of the space, more than `INTRINSIC`.
        seed: of spheres and points.
        training: points of each class to train on; `HELD_OUT` more are held out.

    Raises:
        ValueError: the spheres do not fit into the space.
    """
    if dimensions <= INTRINSIC:
        raise ValueError(
            f"dimensions: expected more than {INTRINSIC}, which a sphere spans, got {dimensions}"
        )
    generator = torch.Generator().manual_seed(seed)
    spheres = [Hypersphere.draw(dimensions, INTRINSIC, generator) for _ in range(CLASSES)]

    def points(count: int) -> Points:
        parts = [sphere.points(count, NOISE, generator).float() for sphere in spheres]
        return Points(torch.cat(parts), torch.arange(CLASSES).repeat_interleave(count))

    return points(training), points(HELD_OUT)
