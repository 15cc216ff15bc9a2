"""The study of examples/hyperspheres, on a few points."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

import asyncopt
from examples.hyperspheres import data, loss, models, retrieval, study, training

HAS_DEVICES = "devices" in inspect.signature(asyncopt.launch).parameters
SMALL = ["--dimensions", "32", "--batch-sizes", "32", "--points", "8", "--seeds", "1"]
SMALL += ["--epochs", "2"]


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the unit sphere and their classes, of which none has one point alone."""
    generator = torch.Generator().manual_seed(seed)
    points = normalize(torch.randn(30, 5, generator=generator, dtype=torch.float64))
    return points, torch.arange(30) % 4


# --- Points ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dimensions", "intrinsic"), [(128, 3), (1024, 10), (8, 7)])
def test_a_sphere_has_its_radius_and_its_dimensions(dimensions: int, intrinsic: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sphere = data.Hypersphere.draw(dimensions, intrinsic, generator)
    points = (sphere.points(200, 0.0, generator) - sphere.centre).numpy()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), sphere.radius, rtol=1e-12)
    values = np.linalg.svd(points / sphere.radius, compute_uv=False)
    spanned = intrinsic + 1
    assert (values[spanned:] < 1e-12).all()
    # Uniform: as long in every direction that it spans, up to chance.
    np.testing.assert_allclose(values[:spanned] ** 2 / 200, 1 / spanned, rtol=0.5)


def test_noise_is_in_every_dimension() -> None:
    generator = torch.Generator().manual_seed(2)
    sphere = data.Hypersphere.draw(64, 3, generator)
    calm = sphere.points(500, 0.0, torch.Generator().manual_seed(3))
    moved = sphere.points(500, 0.2, torch.Generator().manual_seed(3))
    np.testing.assert_allclose((moved - calm).std(0), 0.2, rtol=0.2)


def test_points_to_train_on_and_points_held_out() -> None:
    training_points, held_out = data.make(40, seed=0, training=7)
    assert training_points.x.shape == (7 * data.CLASSES, 40)
    assert training_points.x.dtype == torch.float32
    assert torch.equal(torch.bincount(training_points.y), torch.full((data.CLASSES,), 7))
    assert torch.equal(torch.bincount(held_out.y), torch.full((data.CLASSES,), data.HELD_OUT))
    again, other = data.make(40, seed=0, training=7)[0], data.make(40, seed=1, training=7)[0]
    assert torch.equal(training_points.x, again.x)
    assert not torch.equal(training_points.x, other.x)


def test_too_few_dimensions() -> None:
    with pytest.raises(ValueError, match=r"dimensions: expected more than 6, .* got 6"):
        data.make(6, seed=0)


# --- Loss and score --------------------------------------------------------------------------


def test_average_precision_is_that_of_every_query() -> None:
    points, y = drawn()
    x = points.numpy()
    scores = []
    for query in range(len(y)):
        others = np.arange(len(y)) != query
        scores.append(average_precision_score((y == y[query])[others], x[others] @ x[query]))
    assert retrieval.average_precision(points, y) == pytest.approx(np.mean(scores), abs=1e-12)


def test_average_precision_by_hand() -> None:
    """Points of two classes at 0, 10, 180 and 182 degrees."""
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 180.0, 182.0]))
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    # If classes alternate, 182 ranks 180 and then 10, of its class; the others rank theirs third.
    expected = (1 / 3 + 1 / 3 + 1 / 3 + 1 / 2) / 4
    assert retrieval.average_precision(points, torch.tensor([0, 1, 0, 1])) == pytest.approx(
        expected
    )
    assert retrieval.average_precision(points, torch.tensor([0, 0, 1, 1])) == 1.0


def test_the_loss_is_that_of_the_paper() -> None:
    points, y = drawn()
    total = 0.0
    for i in range(len(y)):
        others = [a for a in range(len(y)) if a != i]
        likeness = {a: math.exp(float(points[i] @ points[a]) / loss.TEMPERATURE) for a in others}
        same = [p for p in others if y[p] == y[i]]
        total -= sum(math.log(likeness[p] / sum(likeness.values())) for p in same) / len(same)
    assert loss.contrastive_loss(points, y).item() == pytest.approx(total / len(y), rel=1e-9)


def test_a_class_of_one_point_costs_nothing() -> None:
    points = drawn()[0][:3].requires_grad_()
    value = loss.contrastive_loss(points, torch.arange(3))
    value.backward()
    assert value.item() == 0.0
    assert points.grad is not None
    assert torch.equal(points.grad, torch.zeros_like(points))


# --- Training --------------------------------------------------------------------------------


def test_every_parameter_has_one_optimizer() -> None:
    model = models.Reducer(32)
    weights, vectors = training.make_optimizers(model, "mutex")
    assert isinstance(weights, torch.optim.AdamW)
    assert isinstance(vectors, torch.optim.SGD)
    held = [p for each in (weights, vectors) for g in each.param_groups for p in g["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    reduced = model(torch.randn(4, 32))
    torch.testing.assert_close(reduced.norm(dim=1), torch.ones(4))


def test_a_worker_alone_trains_as_torch_does() -> None:
    """Both optimizers and both schedules, against a plain loop over the same batches."""
    points, _ = data.make(32, seed=0, training=8)
    recipe = training.Recipe(batch_size=32, epochs=2, seed=5)
    ours = models.Reducer(32, width=16, blocks=1)
    theirs = models.Reducer(32, width=16, blocks=1)
    theirs.load_state_dict(ours.state_dict())

    steps = 2 * (len(points.y) // 32)
    optimizers = training.make_optimizers(ours, "mutex")
    schedulers = [training.SCHEDULES["warmup"](each, steps) for each in optimizers]
    asyncopt.launch(
        training.train, (ours, optimizers, schedulers, points, recipe), workers=1, mode="thread"
    )

    groups = models.parameter_groups(theirs)
    plain: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups["weights"], lr=2e-3, weight_decay=0.05),
        torch.optim.SGD(groups["vectors"], lr=0.05, momentum=0.9),
    ]
    schedules = [training.SCHEDULES["warmup"](each, steps) for each in plain]
    for epoch in range(2):
        order = np.random.default_rng((5, epoch)).permutation(len(points.y))
        for start in range(0, len(order) - 31, 32):
            x, y = points.x[order[start : start + 32]], points.y[order[start : start + 32]]
            for each in plain:
                each.zero_grad()
            loss.contrastive_loss(theirs(x), y).backward()
            for each in plain:
                each.step()
            for schedule in schedules:
                schedule.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], msg=name)


def test_schedules_end_where_they_should() -> None:
    for name, make in training.SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = make(optimizer, 50)
        rates = []
        for _ in range(50):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        assert max(rates) == pytest.approx(1.0), name
        assert rates[-1] == pytest.approx(1.0) if name == "constant" else rates[-1] < 0.01


# --- The study -------------------------------------------------------------------------------


def test_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    study.main([*SMALL, "--workers", "2", "1", "--mode", "thread", "--log-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    for text in ("20 spheres of 6 dimensions", "precision", "1.00x", "in 32 dimensions"):
        assert text in shown
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == [f"32d, batch 32, {n} workers, seed 0" for n in (1, 2)]
    assert all(list(folder.glob("events.*")) for folder in tmp_path.iterdir())


@pytest.mark.parametrize(
    "devices",
    [
        (),
        pytest.param(
            ("--devices", "cpu"),
            marks=pytest.mark.skipif(not HAS_DEVICES, reason="this launch has no devices"),
        ),
    ],
)
def test_processes_as_json(capsys: pytest.CaptureFixture[str], devices: tuple[str, ...]) -> None:
    study.main([*SMALL, "--workers", "2", "--json", *devices])
    document = json.loads(capsys.readouterr().out)
    assert 0 < document["untrained"]["32"] < 1
    (row,) = document["rows"]
    assert (row["dimensions"], row["batch_size"], row["workers"]) == (32, 32, 2)
    assert row["speedup"]["values"] == [1.0]
    assert 0 < row["precision"]["median"] <= 1
    assert row["seconds"]["median"] > 0


def test_devices_are_dealt_in_turns() -> None:
    assert study.dealt(["cuda:0", "cuda:1"], 3) == ["cuda:0", "cuda:1", "cuda:0"]


def test_training_helps() -> None:
    """Average precision rises above that of an untrained reduction."""
    options = study.parse([*SMALL, "--points", "60", "--epochs", "6", "--mode", "thread"])
    trained = study.measure(study.Case(32, 32, 1), 0, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = study.judge(models.Reducer(32), data.make(32, 0)[1])
    assert trained.loss < untrained[0]
    assert trained.precision > 2 * untrained[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers: expected a whole number >= 1, got '0'"),
        (["--dimensions", "six"], "--dimensions: expected a whole number >= 7, got 'six'"),
        (["--batch-sizes", "1"], "--batch-sizes: expected a whole number >= 2, got '1'"),
        (["--points", "1", "--batch-sizes", "64"], "--batch-sizes: expected at most 20"),
        (["--sync", "none"], "invalid choice: 'none'"),
    ],
)
def test_bad_options(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        study.parse(arguments)
    assert message in capsys.readouterr().err


def test_quick_gives_way_to_what_is_said() -> None:
    options = study.parse(["--quick", "--workers", "4"])
    assert (options.workers, options.dimensions) == ([4], [128])
