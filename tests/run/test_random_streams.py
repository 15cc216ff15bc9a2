"""Workers draw different random numbers, and the same ones again after the same seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from asyncopt.run import launch, random_states

from . import draws, draws_at_import, seeds_at_import
from .draws import Draws, equal_fields

ONE_THREAD: dict[str, Any] = {"threads_per_worker": 1}


@pytest.fixture(autouse=True)
def generators() -> Iterator[None]:
    """Leaves this process's generators as they were."""
    before = random_states.capture()
    yield
    random_states.restore(before)


def drawn(workers: int = 2, **options: Any) -> list[Draws]:
    return launch(draws.draw, workers=workers, **ONE_THREAD, **options).results


def shared_streams(streams: list[Draws]) -> list[list[str]]:
    pairs = itertools.combinations(streams, 2)
    return [names for one, other in pairs if (names := equal_fields(one, other))]


def test_streams_differ_between_ranks_and_launches() -> None:
    torch.manual_seed(3)
    assert shared_streams([*drawn(3), *drawn(3)]) == []


def test_the_same_seed_gives_the_same_streams() -> None:
    torch.manual_seed(3)
    first = [drawn(), drawn()]
    torch.manual_seed(3)
    assert [drawn(), drawn()] == first
    torch.manual_seed(4)
    assert shared_streams([*drawn(), *first[0], *first[1]]) == []


def test_a_stream_does_not_depend_on_the_number_of_workers() -> None:
    torch.manual_seed(3)
    three = drawn(3)
    torch.manual_seed(3)
    assert drawn(2) == three[:2]


def test_a_launch_draws_one_number_as_a_data_loader_does() -> None:
    torch.manual_seed(3)
    drawn(1)
    after = torch.rand(4)
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(after, torch.rand(4))


def test_seed_decides_alone_and_leaves_the_parents_generators() -> None:
    first = drawn(seed=5)
    before = random_states.capture()
    assert drawn(seed=5) == first
    assert random_states.capture() == before
    assert shared_streams([*first, *drawn(seed=6)]) == []


def test_modules_that_seed_at_import_do_not_make_streams_equal() -> None:
    assert shared_streams(launch(seeds_at_import.draw, workers=3, **ONE_THREAD).results) == []


def test_what_workers_draw_before_fn_is_the_same_in_all_of_them() -> None:
    def constants() -> list[Any]:
        return launch(draws_at_import.constant, workers=2, **ONE_THREAD).results

    torch.manual_seed(3)
    one, other = constants()
    assert one == other
    third, _ = constants()
    assert not set(third) & set(one)
    torch.manual_seed(3)
    assert constants() == [one, other]


def test_each_life_has_its_own_stream() -> None:
    def lives() -> tuple[list[tuple[float, ...]], Draws]:
        seen = torch.zeros(2, 3, dtype=torch.float64)
        with pytest.warns(RuntimeWarning, match="exited with code 3"):
            run = launch(
                draws.draw_and_die, (seen,), workers=1, on_error="restart", seed=5, **ONE_THREAD
            )
        return [tuple(row) for row in seen.tolist()], run.results[0]

    earlier, last = lives()
    assert lives() == (earlier, last)
    rows = [*earlier, (last.torch[0], last.numpy[0], last.python[0])]
    assert [len(set(column)) for column in zip(*rows, strict=True)] == [3, 3, 3]


def test_threads_draw_from_this_process() -> None:
    before = random_states.capture()
    launch(draws_at_import.constant, workers=2, mode="thread")
    assert random_states.capture() == before
    torch.manual_seed(3)
    (stream,) = drawn(1, mode="thread")
    assert stream.initial_seed == 3


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"seed": -1}, ValueError, r"^seed: expected an integer >= 0, got -1"),
        ({"seed": 1.5}, TypeError, r"^seed: expected an integer >= 0, got 1\.5"),
        (
            {"seed": 1, "mode": "thread"},
            ValueError,
            r"^seed: expected None with mode='thread', .* got 1; call torch\.manual_seed\(1\)",
        ),
    ],
)
def test_seeds_are_checked(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    before = random_states.capture()
    with pytest.raises(kind, match=message):
        drawn(**options)
    assert random_states.capture() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_streams_of_gpus_differ_too() -> None:
    devices = ["cuda:0", "cuda:0"]
    one, other = launch(draws.draw_on_gpu, devices=devices, seed=5).results
    assert not set(one) & set(other)
    assert launch(draws.draw_on_gpu, devices=devices, seed=5).results == [one, other]
