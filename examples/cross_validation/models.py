"""LeNet, MobileNet and VGG for images of about 30 x 30, small enough for a CPU core each."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from asyncopt.studies.training.networks import lenet

CLASSES = 10


def mobilenet(channels: int, size: int) -> nn.Module:
    """MobileNet (Howard et al., arXiv 1704.04861) with a quarter of its channels and less depth.

    The first convolution halves the image, as in the original; of the blocks only two do.

    Args:
        channels: of the images.
        size: their height and width in pixels; any will do.
    """

    def separable(inputs: int, outputs: int, stride: int) -> Iterator[nn.Module]:
        yield from normalized(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False))
        yield from normalized(nn.Conv2d(inputs, outputs, 1, bias=False))

    return nn.Sequential(
        *normalized(nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False)),
        *separable(16, 32, 1),
        *separable(32, 64, 2),
        *separable(64, 64, 1),
        *separable(64, 128, 2),
        *separable(128, 128, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )


def vgg(channels: int, size: int) -> nn.Module:
    """VGG (Simonyan and Zisserman, arXiv 1409.1556) of six convolutions, with batch normalization.

    Args:
        channels: of the images.
        size: their height and width in pixels, at least 8.
    """

    def block(inputs: int, outputs: int) -> Iterator[nn.Module]:
        yield from normalized(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        yield from normalized(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        yield nn.MaxPool2d(2)

    return nn.Sequential(
        *block(channels, 16),
        *block(16, 32),
        *block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * (size // 8) ** 2, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, CLASSES),
    )


def normalized(convolution: nn.Conv2d) -> Iterator[nn.Module]:
    """A convolution, batch normalization and ReLU."""
    yield convolution
    yield nn.BatchNorm2d(convolution.out_channels)
    yield nn.ReLU(inplace=True)


MODELS = {"LeNet": lenet, "MobileNet": mobilenet, "VGG": vgg}
