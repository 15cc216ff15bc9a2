"""``Worker.batches`` against a simple reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asyncopt.run import Worker


def worker(rank: int = 0, world_size: int = 1) -> Worker:
    return Worker(rank, world_size, lambda timeout: None)


def reference(
    examples: int, batch_size: int, epochs: int, shuffle: bool, seed: int, drop_last: bool
) -> list[list[list[int]]]:
    """For each epoch its batches of example numbers."""
    result = []
    for epoch in range(epochs):
        order = list(range(examples))
        if shuffle:
            order = np.random.default_rng([seed, epoch]).permutation(examples).tolist()
        batches = []
        while order:
            batches.append(order[:batch_size])
            order = order[batch_size:]
        if drop_last and batches and len(batches[-1]) < batch_size:
            batches.pop()
        result.append(batches)
    return result


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("examples", "batch_size"), [(20, 4), (23, 4), (3, 8), (1, 1), (0, 2)])
def test_equals_the_reference(
    world_size: int, shuffle: bool, drop_last: bool, examples: int, batch_size: int
) -> None:
    data = (torch.arange(examples), torch.arange(examples * 6.0).reshape(examples, 3, 2))
    options: dict[str, Any] = {"shuffle": shuffle, "seed": 5, "drop_last": drop_last}
    epochs = reference(examples, batch_size, 3, **options)
    for rank in range(world_size):
        share = [batch for batches in epochs for batch in batches[rank::world_size]]
        got = list(worker(rank, world_size).batches(data, batch_size, epochs=3, **options))
        assert [x.tolist() for x, _ in got] == share
        for (_, y), batch in zip(got, share, strict=True):
            assert torch.equal(y, data[1][batch])


def test_all_workers_together_see_every_example_once_per_epoch() -> None:
    seen = [
        [x for batch in worker(rank, 3).batches(torch.arange(50), 8) for x in batch.tolist()]
        for rank in range(3)
    ]
    assert sorted(x for share in seen for x in share) == list(range(50))


def test_epochs_and_seeds_permute_differently_and_repeatably() -> None:
    def order(**options: Any) -> list[list[int]]:
        data = torch.arange(64)
        return [b.tolist() for b in worker().batches(data, 64, **options)]

    first, second = order(epochs=2, seed=1)
    assert first != second
    assert order(epochs=2, seed=1) == [first, second]
    # Seed and epoch do not add up to one number: epoch 1 of seed 0 is not epoch 0 of seed 1.
    assert order(epochs=2, seed=0)[1] != first


def test_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    list(worker().batches(torch.arange(9), 2, epochs=2))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # type: ignore[index]  # noqa: NPY002


def test_a_tensor_gives_tensors_and_a_tuple_gives_tuples() -> None:
    assert isinstance(next(worker().batches(torch.arange(4), 2)), torch.Tensor)
    (only,) = next(worker().batches((torch.arange(4),), 2))
    assert only.shape == (2,)


def test_without_shuffling_batches_are_views() -> None:
    data = torch.zeros(4, 2)
    next(worker().batches(data, 2, shuffle=False)).fill_(1)
    assert data.sum() == 4


X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("data", "options", "kind", "message"),
    [
        ([X], {}, TypeError, r"data: expected a tensor or a tuple of tensors, got list; .*"),
        ((X, X.numpy()), {}, TypeError, r"data\[1\]: expected a tensor, got ndarray; .*"),
        ((), {}, ValueError, r"data: .* got an empty tuple"),
        (torch.tensor(1.0), {}, ValueError, r"data: expected examples .* got a scalar tensor"),
        ((X, X[:3]), {}, ValueError, r"data\[1\]: expected 4 examples, as in data\[0\], got 3"),
        (X, {"batch_size": 0}, ValueError, r"batch_size: expected an integer >= 1, got 0"),
        (X, {"batch_size": 2.0}, ValueError, r"batch_size: expected an integer >= 1, got 2.0"),
        (X, {"epochs": -1}, ValueError, r"epochs: expected an integer >= 0, got -1"),
        (X, {"seed": -1}, ValueError, r"seed: expected an integer >= 0, got -1"),
        (X, {"seed": True}, ValueError, r"seed: expected an integer >= 0, got True"),
    ],
)
def test_bad_input_raises_at_the_call(
    data: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        worker().batches(data, **{"batch_size": 2, **options})


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan"), "1"])
def test_barrier_needs_a_finite_timeout(timeout: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout: expected seconds > 0"):
        worker().barrier(timeout)


@pytest.mark.parametrize("loss", ["low", None, torch.ones(2)], ids=repr)
def test_a_loss_is_one_number(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"^loss: expected a number or a tensor with one element"):
        worker().log(loss)


def test_pushes_take_optimizers() -> None:
    wrong: Any = torch.ones(())
    with pytest.raises(TypeError, match=r"^optimizers: expected optimizers, got Tensor"):
        worker().push(wrong)
