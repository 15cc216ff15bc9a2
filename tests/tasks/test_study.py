"""The study of examples/cross_validation, on a few images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asyncopt.studies.training.networks import load_images
from examples.cross_validation import models, study


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_models_fit_their_images(name: str, channels: int, size: int) -> None:
    model = models.MODELS[name](channels, size)
    output = model(torch.zeros(2, channels, size, size))
    assert output.shape == (2, models.CLASSES)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
def test_the_study(tmp_path: Path) -> None:
    arguments = ["--models", "LeNet", "--schedules", "warm restarts", "--folds", "2"]
    arguments += ["--epochs", "2", "--examples", "300", "--out", str(tmp_path)]
    study.main(arguments)
    load_images.cache_clear()  # its tensors are in shared memory now
    title, _, head, _, line, *rest = (tmp_path / "study.md").read_text().splitlines()
    assert title.startswith("mnist, 2 folds, 2 epochs, ")
    assert head.count("|") == line.count("|") == 9
    assert "LeNet | warm restarts" in line
    assert rest == []
    assert len(list(tmp_path.glob("LeNet, warm restarts, *.html"))) == 2
