"""Predictions of ``asyncopt doctor`` from rates that are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from asyncopt.cli.commands import cli
from asyncopt.studies.diagnosis import plan, rates
from asyncopt.studies.diagnosis.findings import best_of, findings, recommendation
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.modes import LATE, OVERLAPPED, UNHIDDEN, forecasts
from asyncopt.studies.diagnosis.plan import Training
from asyncopt.studies.diagnosis.rates import Link, Push, Rates

M = 1_000_000
MS = 1e-3
ADAM = Push((M, 25 * M), (1 * MS, 40 * MS), (0.5 * MS, 20 * MS), 32)
SGD = Push((M, 25 * M), (0.5 * MS, 20 * MS), (0.25 * MS, 10 * MS), 16)
GPU = Link(25e9, 20e9, 6e9, 5e9, 1e12)
RATES = Rates(
    threads=4,
    copy=10e9,
    copy_together=20e9,
    pushes={"SGD": SGD, "Adam": ADAM},
    reduce=2e9,
    links={"cuda:0": GPU, "cuda:1": GPU},
    peer=100e9,
)
TRAINING = Training(parameters=25 * M, compute=30 * MS, workers=2, rule="Adam")

IN_PLACE, LOCKED = "in place, lock-free", "in place, one lock"
SYNCHRONOUS = "synchronous data parallel"


def of(asked: Training, known: Rates = RATES) -> dict[str, Forecast]:
    found = {each.mode.partition(", every=")[0]: each for each in forecasts(asked, known)}
    assert all(each.latency > 0 and each.rate > 0 for each in found.values())
    return found


def on(*devices: str, **changes: object) -> Training:
    return replace(TRAINING, devices=devices, workers=len(devices), **changes)  # type: ignore[arg-type]


# --- Predictions -----------------------------------------------------------------------


def test_in_place_by_hand() -> None:
    """4 workers of one thread each: 30 ms of computing, 40 ms of push, of which all use memory."""
    found = of(replace(TRAINING, workers=4))
    free, locked = found[IN_PLACE], found[LOCKED]
    assert free.phases == {"compute": 30 * MS, "push": 40 * MS}
    assert free.places["memory"] == 20 * MS
    assert free.knee == pytest.approx(70 / 20)
    assert free.waits_for == "memory"
    assert free.rate == pytest.approx(1 / (20 * MS))
    assert free.speedup == pytest.approx(70 / 20)
    # One lock lets one push at a time.
    assert locked.waits_for == "lock"
    assert locked.rate == pytest.approx(1 / (40 * MS))


def test_no_more_workers_than_cores() -> None:
    small = replace(TRAINING, parameters=1000)
    assert of(replace(small, workers=4))[IN_PLACE].speedup == pytest.approx(4, rel=1e-3)
    crowded = of(replace(small, workers=16))[IN_PLACE]
    assert crowded.waits_for == "cores"
    assert crowded.speedup == pytest.approx(4, rel=1e-3)


def test_all_reduce_is_bytes_over_bandwidth() -> None:
    """2 (N - 1) / N of 100 MB at 2 GB/s between processes, at 100 GB/s between GPUs."""
    assert of(replace(TRAINING, workers=1))[SYNCHRONOUS].phases["all-reduce"] == 0
    assert of(replace(TRAINING, workers=4))[SYNCHRONOUS].phases["all-reduce"] == pytest.approx(
        75 * MS
    )
    found = of(TRAINING)[SYNCHRONOUS]
    assert found.phases["all-reduce"] == pytest.approx(50 * MS)
    # Both step their copies at once, by 2 threads each: as long as the memory takes for two.
    assert found.phases["step"] == pytest.approx(40 * MS)
    assert found.batches == 2
    assert found.staleness == 0
    assert of(on("cuda:0", "cuda:1"))[SYNCHRONOUS].phases["all-reduce"] == 0  # 1 ms is hidden
    slow = replace(RATES, peer=1e9)
    hidden = 20 * MS  # of 30, the backward part
    found = of(on("cuda:0", "cuda:1"), slow)[SYNCHRONOUS]
    assert found.phases["all-reduce"] == pytest.approx(100 * MS - hidden)


def test_no_data_parallel_on_one_device_or_without_gloo() -> None:
    assert SYNCHRONOUS not in of(on("cuda:0", "cuda:0"))
    assert SYNCHRONOUS not in of(TRAINING, replace(RATES, reduce=None))


def test_a_host_store_by_hand() -> None:
    """100 MB out at 20 GB/s, a push by 2 threads, and back at 25 GB/s."""
    found = of(on("cuda:0", "cuda:1"))
    apart = found[UNHIDDEN]
    assert apart.phases == pytest.approx(
        {"compute": 30 * MS, "gradients out": 5 * MS, "push": 20 * MS, "parameters in": 4 * MS}
    )
    # In chunks the push of 20 ms is all that shows, and fits beside 20 ms of backward.
    assert found[OVERLAPPED].latency == pytest.approx(30 * MS)
    assert found[LATE].latency == pytest.approx(30 * MS)
    quick = of(on("cuda:0", "cuda:1", compute=15 * MS))
    assert quick[OVERLAPPED].latency == pytest.approx((15 + 20 - 10) * MS)
    assert quick[LATE].latency == pytest.approx(20 * MS)
    assert quick[LATE].staleness == quick[OVERLAPPED].staleness + 1


def test_workers_on_one_device_share_it() -> None:
    apart, together = (of(on("cuda:0", each, parameters=M)) for each in ("cuda:1", "cuda:0"))
    assert together[OVERLAPPED].waits_for == "device"
    assert together[OVERLAPPED].speedup == pytest.approx(1, rel=0.1)
    assert apart[OVERLAPPED].speedup > 1.7
    in_place = together["in place, on the device"]
    assert in_place.phases["step"] == pytest.approx(32 * M / (2 * 1e12))
    assert in_place.speedup == pytest.approx(1)
    assert "in place, on the device" not in apart


def test_overlap_on_the_host_needs_cores() -> None:
    """Where workers compute on all cores already, nothing is hidden; and that is no mode to use."""
    full = of(on(*["cpu"] * 4))
    assert best_of([full[UNHIDDEN], full[OVERLAPPED]]) is full[OVERLAPPED]
    assert full[OVERLAPPED].seconds == pytest.approx(full[UNHIDDEN].seconds, rel=0.05)


def test_local_steps_exchange_as_seldom_as_they_must() -> None:
    found = {each.mode: each for each in forecasts(on("cuda:0", "cuda:1"), RATES)}
    (name,) = [mode for mode in found if mode.startswith("local steps")]
    # 5 ms out, 10 ms of push, 4 ms back, against 5% of 30 ms and a step on the device.
    assert name == "local steps, every=16"
    assert found[name].phases["exchange"] == pytest.approx(19 * MS / 16)


@pytest.mark.parametrize("devices", [(), ("cpu", "cpu"), ("cuda:0", "cuda:0"), ("cpu", "cuda:1")])
def test_a_larger_model_is_never_faster(devices: tuple[str, ...]) -> None:
    sizes = [1000, 10**5, M, 3 * M, 25 * M, 30 * M, 10**9]
    before: dict[str, Forecast] = {}
    for size in sizes:
        found = of(replace(TRAINING, parameters=size, devices=devices))
        for mode, each in before.items():
            if mode != "local steps":  # which exchange less often
                assert found[mode].seconds >= each.seconds * (1 - 1e-9), (mode, size)
        before = found


@pytest.mark.parametrize("devices", ["", "cpu", "cuda:0"])
def test_more_workers_are_never_slower(devices: str) -> None:
    """Asynchronous ones of one thread: that is an upper bound."""
    known = replace(RATES, threads=1)
    for mode in (IN_PLACE, LOCKED) if not devices else (UNHIDDEN, OVERLAPPED):
        rates_ = [
            of(replace(TRAINING, workers=n, devices=(devices,) * n if devices else ()), known)[
                mode
            ].rate
            for n in (1, 2, 4, 8)
        ]
        assert rates_ == sorted(rates_)


def test_a_push_between_and_beyond_what_was_measured() -> None:
    assert ADAM.seconds(13 * M, 1) == pytest.approx(20.5 * MS)
    assert ADAM.seconds(50 * M, 1) == pytest.approx(80 * MS)
    assert ADAM.seconds(M // 2, 1) == pytest.approx(0.5 * MS)
    assert ADAM.seconds(25 * M, 100) == pytest.approx(20 * MS)  # the memory's limit
    odd = replace(ADAM, together=(3 * MS, 60 * MS))  # more threads, disturbed
    assert odd.busy(25 * M) == pytest.approx(40 * MS)


# --- Sentences ----------------------------------------------------------------------------


def test_the_least_stale_of_the_fast_ones_pays() -> None:
    found = of(on("cuda:0", "cuda:1", parameters=M))
    assert best_of([*found.values()]).mode == SYNCHRONOUS
    slow = of(on("cuda:0", "cuda:1"), replace(RATES, peer=1e9))
    assert best_of([*slow.values()]).mode != SYNCHRONOUS


def test_sentences_say_why() -> None:
    asked = replace(TRAINING, workers=4)
    text = " ".join(findings(asked, forecasts(asked, RATES)))
    assert "a batch takes 70 ms: compute 30 ms, push 40 ms" in text
    assert "keeps the memory busy for 20 ms: beyond 3.5 workers they wait for it" in text
    assert "The push takes 40 ms against 30 ms of computing; with batches 5x as large" in text
    asked = on("cuda:0", "cuda:1")
    text = " ".join(findings(asked, forecasts(asked, RATES)))
    assert "A worker's computing can hide 29 ms of 29 ms for transfers and push" in text
    assert "push, but 2 workers wait for the memory." in text  # 20 ms of push, 5 of transfer
    asked = on("cuda:0", "cuda:0")
    text = recommendation(asked, forecasts(asked, RATES))
    assert text.startswith("One worker: no mode pays with 2; the best, ")
    asked = on("cuda:0", "cuda:1")
    best = best_of(forecasts(asked, RATES))
    assert recommendation(asked, forecasts(asked, RATES)).startswith(f"{best.mode}, {best.how}: ")


# --- The command -----------------------------------------------------------------------------

runner = CliRunner()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SIZES", (1000, 10_000))
    monkeypatch.setattr(rates, "SAMPLES", 1)


@pytest.mark.usefixtures("small")
def test_advice_as_json_and_as_text() -> None:
    asked = ["doctor", "--parameters", "2.5M", "--step-ms", "30", "--rule", "adagrad"]
    result = runner.invoke(cli, [*asked, "--devices", "cpu,cpu", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert set(document["rates"]["pushes"]) == {"SGD", "Adam", "Adagrad"}
    advice = document["advice"]
    assert advice["task"] == {
        "parameters": 2_500_000,
        "compute": 0.03,
        "workers": 2,
        "rule": "Adagrad",
        "devices": ["cpu", "cpu"],
    }
    assert [mode["mode"] for mode in advice["modes"]][:3] == [UNHIDDEN, OVERLAPPED, LATE]
    assert advice["findings"]
    result = runner.invoke(cli, [*asked, "--workers", "3"])
    assert result.exit_code == 0, result.output
    for expected in ("Predicted: 2.5M parameters", IN_PLACE, "push of Adagrad"):
        assert expected in " ".join(result.stdout.split())


@pytest.mark.usefixtures("small")
def test_what_is_measured() -> None:
    threads = torch.get_num_threads()
    push = rates.push_costs("Adam", threads=2)
    assert push.sizes == (1000, 10_000)
    assert push.traffic == 32  # gradient twice, parameter and two averages both ways
    assert min(push.alone + push.together) > 0
    assert rates.copy_rate(2) > 0
    reduced = rates.reduce_rate()
    assert reduced is None or reduced > 0
    assert torch.get_num_threads() == threads


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_links_are_measured() -> None:
    link = rates.measure_link("cuda:0")
    assert link.copy > link.to_device > 1e9
    assert link.to_device >= 0.8 * link.pageable_to_device
    assert link.from_device >= 0.8 * link.pageable_from_device


def test_numbers_of_parameters() -> None:
    given = {"25M": 25 * M, "1.5e6": 1_500_000, "7b": 7 * 10**9, " 512 ": 512, "3k": 3000}
    assert {text: plan.parse_parameters(text) for text in given} == given
