"""The model against cases worked by hand, queueing formulas, and itself at a finer grain."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import asyncopt
from asyncopt.simulate import SYNCS, Costs, LineCost, Workload, simulate

US = 1e-6
NOTHING = LineCost(0.0, 0.0)
FREE = Costs(
    call=0.0,
    transfer=0.0,
    lock=0.0,
    sleep=0.0,
    wake=0.0,
    wake_call=0.0,
    update=NOTHING,
    stripe=NOTHING,
    exchange=NOTHING,
    copy=NOTHING,
    snapshot=NOTHING,
    check=0.0,
)
USUAL = replace(
    FREE,
    call=3 * US,
    transfer=0.03 * US,
    lock=0.015 * US,
    sleep=0.4 * US,
    wake=20 * US,
    wake_call=8 * US,
    update=LineCost(0.8e-9, 1.1e-9),
    stripe=LineCost(1.1e-9, 1.3e-9),
    exchange=LineCost(82e-9, 85e-9),
    copy=LineCost(0.6e-9, 1.4e-9),
    snapshot=LineCost(2.2e-9, 3.4e-9),
    check=0.5e-9,
)


def test_every_sync_of_the_build_is_modelled() -> None:
    assert tuple(SYNCS) == asyncopt.syncs()


def test_one_core_takes_the_sum_of_its_steps() -> None:
    costs = replace(USUAL, wake=1.0, wake_call=1.0, sleep=1.0)  # nobody sleeps
    workload = Workload(lines=1000, touched=1000, compute=20 * US, jitter=0.0, stripe_lines=2)
    private = 3 * US + 1000 * 0.5e-9 + 20 * US
    update, copy, snapshot = 1000 * 0.8e-9, 1000 * 0.6e-9, 1000 * 2.2e-9
    # 16 stretches of 62 or 63 lines: an odd one ends in a stripe of one line.
    stripes = sum(math.ceil(n / 2) for n in np.diff(np.linspace(0, 1000, 17).astype(int)))
    expected = {
        "hogwild": update,
        "atomic": 1000 * 82e-9,
        "striped": 1000 * 1.1e-9 + stripes * 0.015 * US,
        "mutex": update + 0.015 * US,
        "seqlock": copy + update + snapshot + 0.015 * US,
        "leashed": 2 * copy + update,
    }
    for sync, push in expected.items():
        outcome = simulate(costs, sync, 1, workload)
        assert outcome.updates_per_second == pytest.approx(1 / (private + push), rel=1e-6), sync
        assert set(outcome.staleness) == {0}
        assert outcome.waits == outcome.retries == 0


def test_without_collisions_hogwild_scales_with_the_cores() -> None:
    workload = Workload(lines=100_000, touched=8, compute=50 * US)
    alone = simulate(USUAL, "hogwild", 1, workload).updates_per_second
    for cores in (2, 16, 128):
        together = simulate(USUAL, "hogwild", cores, workload).updates_per_second
        assert together == pytest.approx(cores * alone, rel=0.03)


def test_a_saturated_mutex_makes_one_push_per_critical_section() -> None:
    workload = Workload(lines=1000, touched=1000)
    costs = replace(FREE, call=1 * US, update=LineCost(1e-9, 5e-9))
    outcome = simulate(costs, "mutex", 16, workload)
    # Critical sections of 5 us, in turns; computing (1 us) is hidden behind those of the others.
    assert outcome.updates_per_second == pytest.approx(1 / (5 * US), rel=0.01)
    assert outcome.waits == pytest.approx(1, abs=0.05)
    assert outcome.mean_staleness == pytest.approx(15, rel=0.02)
    assert outcome.percentile(99) <= 16


@pytest.mark.parametrize("load", [0.2, 1.0, 3.0])
def test_two_cores_at_a_mutex_are_the_machine_repairman(load: float) -> None:
    # Exponential computing (mean Z), critical sections of exactly D. One begins with the other core
    # computing; with chance exp(-D / Z) that one is not there at its end, and both compute, for Z/2
    # on average.
    section, mean = 1 * US, 1 * US / load
    expected = 1 / (section + math.exp(-section / mean) * mean / 2)
    costs = replace(FREE, update=LineCost(1e-9, 1e-9))
    workload = Workload(lines=1000, touched=1000, compute=mean, jitter=1.0)
    rates = [simulate(costs, "mutex", 2, workload, seed).updates_per_second for seed in range(20)]
    error = float(np.std(rates)) / math.sqrt(len(rates))
    assert float(np.mean(rates)) == pytest.approx(expected, abs=4 * error)
    assert error < 0.02 * expected


@pytest.mark.parametrize("sync", ["hogwild", "atomic", "striped", "mutex"])
def test_in_place_staleness_is_one_less_than_the_cores_on_average(sync: str) -> None:
    outcome = simulate(USUAL, sync, 16, Workload(lines=256, touched=256, compute=50 * US))
    assert outcome.mean_staleness == pytest.approx(15, rel=0.03)


def test_sleeping_workers_are_overtaken() -> None:
    workload = Workload(lines=4096, touched=4096)
    slow = simulate(USUAL, "mutex", 8, workload)
    fast = simulate(replace(USUAL, wake=0.0, wake_call=0.0, sleep=0.0), "mutex", 8, workload)
    assert slow.updates_per_second < 0.8 * fast.updates_per_second
    assert slow.percentile(99) > 2 * fast.percentile(99)


def test_readers_of_a_seqlock_and_losers_of_a_race_try_again() -> None:
    workload = Workload(lines=4096, touched=4096, compute=30 * US)
    for sync in ("seqlock", "leashed"):
        assert simulate(USUAL, sync, 4, workload).retries > 0.1
        assert simulate(USUAL, sync, 2, replace(workload, compute=0.05)).retries < 0.05


def test_popular_rows_cost_transfers_that_others_do_not() -> None:
    costs = replace(FREE, call=1 * US, update=LineCost(1e-9, 100e-9))
    alike, skewed = (
        simulate(costs, "hogwild", 8, Workload(lines=50_000, touched=16, skew=skew))
        for skew in (0.0, 1.0)
    )
    assert skewed.updates_per_second < 0.9 * alike.updates_per_second


def test_rows_are_drawn_by_their_weights() -> None:
    workload = Workload(lines=100, touched=1, skew=1.0)
    dice = np.random.default_rng(0)
    drawn = [workload.draw(dice)[0].place for _ in range(20_000)]
    weights = 1 / np.arange(1, 101)
    found = np.bincount(drawn, minlength=100) / len(drawn)
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.012)
    many = Workload(lines=100, touched=40, skew=2.0).draw(dice)
    places = [stretch.place for stretch in many]
    assert places == sorted(set(places))
    assert len(places) == 40


@pytest.mark.parametrize("sync", ["hogwild", "atomic", "striped"])
@pytest.mark.parametrize("cores", [2, 8, 32])
def test_stretches_stand_for_their_lines(sync: str, cores: int) -> None:
    coarse = Workload(lines=256, touched=256, compute=5 * US, stripe_lines=1)
    fine = replace(coarse, stretches=256)  # one event per line
    costs = replace(USUAL, update=LineCost(2e-9, 30e-9))
    one, other = (simulate(costs, sync, cores, each) for each in (coarse, fine))
    assert one.updates_per_second == pytest.approx(other.updates_per_second, rel=0.1)
    assert one.mean_staleness == pytest.approx(other.mean_staleness, rel=0.05)


@pytest.mark.parametrize("sync", SYNCS)
def test_a_seed_decides_everything(sync: str) -> None:
    workload = Workload(lines=1000, touched=16, skew=1.0)
    first, again, other = (simulate(USUAL, sync, 8, workload, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("sync", SYNCS)
def test_no_sync_gets_stuck_on_many_cores(sync: str) -> None:
    outcome = simulate(USUAL, sync, 128, Workload(lines=64, touched=64))
    assert 0 < outcome.updates_per_second < 128 / USUAL.call * 1.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simulate(USUAL, "hogwash", 1, Workload(1, 1)), "sync: expected one of hogwild"),
        (lambda: simulate(USUAL, "mutex", 0, Workload(1, 1)), "cores: expected 1 to"),
        (lambda: Workload(4, 5), "touched: expected 1 to 4 lines, got 5"),
        (lambda: Workload(4, 4, compute=math.nan), "compute: expected a number >= 0"),
        (lambda: Workload(4, 4, stretches=0), "stretches: expected at least 1"),
        (lambda: replace(USUAL, wake=-1.0), "wake: expected seconds >= 0, got -1"),
        (lambda: replace(USUAL, copy=LineCost(0.0, math.inf)), "copy: expected seconds"),
        (lambda: Costs.from_json({"call": 1}), "costs: expected"),
        (lambda: Costs.from_json(USUAL.as_json() | {"copy": 1}), "copy: expected own and remote"),
    ],
)
def test_bad_input(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_costs_come_back_as_they_were_written() -> None:
    assert Costs.from_json(USUAL.as_json()) == USUAL
