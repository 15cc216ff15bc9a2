"""The perceptron on scikit-learn's digits, as in ``asyncopt compare``, trained by plain SGD."""

from __future__ import annotations

from torch import Tensor, nn

from asyncopt.studies.delayed.subject import GAP, NORM, Subject, norm_of
from asyncopt.studies.dense.digits import DIGITS
from asyncopt.studies.dense.training import Split, evaluate
from asyncopt.studies.measures import Measure, three_digits


def percent(share: float) -> str:
    """``97.2%``."""
    return f"{share:.1%}"


class Digits(Subject):
    """A network: what staleness does where the optimum is not known, and to generalization."""

    name = DIGITS.name
    title = DIGITS.title
    about = (
        "A two-layer perceptron (9,610 parameters) trained on 1,437 of scikit-learn's digits, "
        "batch 32, tested on 360 others."
    )
    needs = DIGITS.needs
    examples = DIGITS.examples
    batch_size = DIGITS.batch_size
    epochs = 20
    quick_epochs = 6
    lr = 0.5
    step = 2e-4
    main = Measure("test_loss", "test loss", "mean cross entropy on test images", three_digits)
    worse = "the test loss of"
    measures = (
        Measure("train_accuracy", "train", "share of training images classified right", percent),
        Measure("accuracy", "accuracy", "share of test images classified right", percent),
        main,
        GAP,
        NORM,
    )

    def data(self, seed: int) -> Split:
        """The split of ``asyncopt compare``."""
        return DIGITS.load(seed)

    def build(self) -> nn.Module:
        """With torch's own random weights."""
        return DIGITS.build()

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy."""
        return nn.functional.cross_entropy(output, target)

    def score(self, model: nn.Module, seed: int) -> dict[str, float]:
        """Loss and accuracy of both sets of images."""
        split = self.data(seed)
        train_loss, train_accuracy = evaluate(model, split.train)
        test_loss, accuracy = evaluate(model, split.test)
        return {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "accuracy": accuracy,
            "gap": test_loss - train_loss,
            "norm": norm_of(model),
        }
