"""Ranks that average with each other, against serial loops in float64 and against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import asyncopt

from . import jobs, serial
from .cases import CASES, LOCAL, OURS, PLACES, RANKS, STEPS, data


@pytest.fixture(scope="module", params=PLACES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Results of every rank, in workers of `launch`; on the CPU and on GPUs."""
    path = str(Path(tmp_path_factory.mktemp("meeting")) / "file")
    args = (request.param, path)
    return asyncopt.launch(jobs.everything, args, RANKS, threads_per_worker=1, timeout=240).results


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("local", LOCAL | OURS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_serial_loop(results: Any, case: str, local: str) -> None:
    if (case, local) not in results[0]["histories"]:
        pytest.skip("the engine takes no GPU tensors")
    steps, pulled = serial.history(CASES[case], (LOCAL | OURS)[local], STEPS)
    assert not torch.equal(*steps[0])  # replicas, not one model
    for rank, result in enumerate(results):
        ours, ours_pulled = result["histories"][case, local]
        for found, expected in zip(ours, steps, strict=True):
            assert_close(found, expected[rank])
        assert_close(ours_pulled, pulled[rank])


@pytest.mark.parametrize("case", CASES)
def test_a_pull_gives_all_ranks_the_same_bits(results: Any, case: str) -> None:
    one, other = (result["histories"][case, "torch SGD"][1] for result in results)
    assert torch.equal(one, other)


def test_waiting_at_once_is_the_averager_of_torch(results: Any) -> None:
    for result in results:
        for ours, theirs in zip(*result["torch averager"], strict=True):
            assert torch.equal(ours, theirs)


def test_every_step_is_data_parallelism(results: Any) -> None:
    for result in results:
        for ours, theirs in zip(*result["data parallel"], strict=True):
            assert_close(ours, theirs)


@pytest.mark.parametrize("overlap", [0, 1])
def test_bfloat16_is_averaged_in_float32(results: Any, overlap: int) -> None:
    def rounded(value: float) -> float:
        return float(torch.tensor(value, dtype=torch.bfloat16))

    center = weight = 1.0
    sent = None
    for _ in range(40):
        weight = rounded(weight - 2.0**-7)
        if overlap == 0:
            sent = weight
        if sent is not None:
            center -= 2.0**-4 * (center - sent)
            weight = rounded(weight + (center - sent))
        sent = weight  # travels during the next step
    assert weight < 1
    assert [result["bfloat16"][overlap] for result in results] == [weight] * RANKS


def test_buffers(results: Any) -> None:
    """Running means are averaged, those since the last exchange by `pull`; counts are not."""
    running = torch.zeros(3, dtype=torch.float64)
    means = []
    for step in range(3):
        seen = torch.stack([data(10 * step + rank)[0].mean(0) for rank in range(RANKS)]).mean(0)
        running = 0.9 * running + 0.1 * seen  # the mean of such sums is the sum of the means
        means.append(running)
    for result in results:
        for when, steps in (("exchanged", 2), ("pulled", 3)):
            mean, _, count = result["buffers"][when]
            assert_close(mean, means[steps - 1])
            assert count == steps


@pytest.mark.parametrize("case", ["outer optimizer, overlapped", "elastic, overlapped"])
def test_resumes_with_an_exchange_under_way(results: Any, case: str) -> None:
    steps, _ = serial.history(CASES[case], LOCAL["torch SGD"], 11)
    for rank, result in enumerate(results):
        went_on, resumed = result[f"resumed: {case}"]
        assert all(torch.equal(a, b) for a, b in zip(went_on, resumed, strict=True))
        assert_close(went_on[-1], steps[-1][rank])


def test_all_ranks_that_disagree_raise(results: Any) -> None:
    assert results[0]["disagreements"] == results[1]["disagreements"]
    shapes = "got torch.float32 of shape (3,) on rank 0, torch.float"
    expected = [
        "every: expected the same on all ranks, got 4 on rank 0, 5 on rank 1",
        "overlap: expected the same on all ranks, got 0 on rank 0, 1 on rank 1",
        f"params[1]: expected the same on all ranks, {shapes}32 of shape (4,) on rank 1",
        f"params[1]: expected the same on all ranks, {shapes}64 of shape (3,) on rank 1",
        "params: expected the same on all ranks, got 3 on rank 0, 2 on rank 1",
        "outer: expected the same on all ranks, got None on rank 0, SGD (",
        "alpha: expected the same on all ranks, got 0.2 on rank 0, 0.3",
        "method: expected the same on all ranks, got LocalSteps on rank 0, ElasticAveraging on",
        "",
        "model.0.weight: expected the same on all ranks, got torch.float32 of shape (2, 2) with",
        "model.1.num_batches_tracked: expected the same on all ranks, got torch.int64 of shape ()",
        "buffers[0]: expected the same on all ranks, got torch.int64 of shape (1,) with digest",
        "",
    ]
    for said, start in zip(results[0]["disagreements"], expected, strict=True):
        assert said.startswith(start) if start else not said


def test_all_ranks_after_different_numbers_of_steps_raise(results: Any) -> None:
    said = "steps: expected the same on all ranks, got 3 on rank 0, 4 on rank 1"
    assert [result["uneven"] for result in results] == [said] * RANKS


def test_a_rank_goes_on_while_an_exchange_is_under_way(results: Any) -> None:
    assert all(result["later"] for result in results)
