"""Samples and histories: each push is in one interval and one rank, also across deaths."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

import asyncopt
from asyncopt.optim import thread_clone
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.recorder import Recorder
from asyncopt.run.telemetry.samples import Sampler
from asyncopt.run.telemetry.usage import core_seconds, process_seconds, thread_seconds
from tests.run.watched import LAUNCHER, Watched

NOBODY = 2**22 + 1  # above every process id: 2**22 is the kernel's limit
LATER = 2**22 + 100


def burn(seconds: float, clock: object = time.process_time) -> None:
    """Use that much of a processor."""
    assert callable(clock)
    end = clock() + seconds
    while clock() < end:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_every_push_is_in_one_interval_and_one_rank(seed: int) -> None:
    """Workers come, push, die unseen or seen, and take each other's slots."""
    chance = random.Random(seed)
    run = Watched(workers=3, stores=2, slots=5)
    recorder = Recorder(interval=1.0, most=16)
    for store in run.stores:  # an earlier run's
        store.push(2, staleness=7, times=5)
    recorder.start(run.view)
    pushes = 0
    process = LATER
    for _ in range(200):
        act = chance.choice(("sit", "die", "leave", "push", "push", "push", "tick"))
        rank, store = chance.randrange(3), chance.choice(run.stores)
        slot = chance.randrange(1, 5)
        if act == "sit":
            process += 1
            run.processes[rank] = store.rows[slot]["process"] = process
        elif act == "die":
            run.processes[rank] = None
        elif act == "leave":
            store.rows[slot]["process"] = 0
        elif act == "push":
            times = chance.randrange(1, 4)
            store.push(slot, chance.randrange(60), times)
            pushes += times
        else:
            run.elapsed += recorder.interval
            recorder.tick(run.elapsed)
    run.elapsed += 1
    recorder.end(None)
    history = recorder.history()
    assert history.pushes.sum() == pushes
    assert (history.pushes >= 0).all()
    counted = [history.staleness(i).count for i in range(len(history.seconds))]
    assert counted == history.pushes.sum(axis=1).tolist()
    assert history.whole().staleness(0).count == pushes
    assert (np.diff(history.seconds) > 0).all()
    assert len(history.samples) <= 16


def test_pushes_go_to_the_rank_that_made_them() -> None:
    run = Watched(workers=3)
    sampler = Sampler(run.view)
    run.sit(0, NOBODY + 0, slot=2)
    run.sit(1, NOBODY + 1, slot=3)
    run.sit(2, NOBODY + 2, slot=1)
    run.stores[0].push(2, times=10)
    run.stores[0].push(3, times=20)
    run.stores[0].push(1, times=30)
    run.stores[0].push(LAUNCHER, times=99)  # not a worker's
    assert sampler.sample().pushes.tolist() == [10, 20, 30]
    run.sit(1, LATER, slot=3)  # replaced, in the slot of its predecessor
    run.stores[0].push(3, times=2)
    run.stores[0].rows[2]["process"] = 0  # rank 0 leaves after its last push
    run.processes[0] = None
    run.stores[0].push(2, times=1)
    assert sampler.sample().pushes.tolist() == [11, 22, 30]


def test_pushes_of_real_optimizers_in_threads() -> None:
    """Copies of an optimizer for threads; compared with counts of our own and with the ledger."""
    parameter = torch.nn.Parameter(torch.zeros(8))
    optimizer = asyncopt.SGD([parameter], lr=0.1, sync="mutex")
    optimizer.share_memory(workers=4)
    spare = thread_clone((optimizer,))[0]  # has a slot, but is no worker of the run
    run = Watched(workers=3)
    run.view.optimizers[:] = [optimizer]
    run.processes = [os.getpid()] * 3
    sampler = Sampler(run.view)
    first = sampler.sample()
    copies = [thread_clone((optimizer,))[0] for _ in range(3)]
    for rank, copy in reversed(list(enumerate(copies))):
        for _ in range(rank + 1):
            copy.param_groups[0]["params"][0].grad = torch.ones(8)
            copy.step()
    run.elapsed = 2.0
    history = History((first, sampler.sample()), sampler.cores)
    assert history.pushes.tolist() == [[1, 2, 3]]
    assert history.updates_per_second.tolist() == [[0.5, 1.0, 1.5]]
    ledger = optimizer.ledger()
    assert history.staleness(0).counts.tolist() == ledger.staleness.counts.tolist()
    assert history.staleness(0).mean == ledger.staleness.mean
    last = next(worker for worker in ledger.workers if worker.pushes == 3)
    assert history.staleness(0, 2).percentile(99) == last.staleness.percentile(99)
    for copy in (spare, *copies):
        copy.sharing.release()


def test_rates_shares_and_losses_of_an_interval() -> None:
    run = Watched(workers=2)
    sampler = Sampler(run.view)
    run.sit(0, NOBODY)
    run.sit(1, NOBODY + 1)
    samples = [sampler.sample()]
    run.elapsed = 4.0
    run.stores[0].rows[1] |= {"lock_wait_ns": 10**9, "lock_waits": 3, "retries": 7}
    run.board.log(1, 0.25)
    run.restarts = [0, 2]
    samples.append(sampler.sample())
    history = History(tuple(samples), sampler.cores)
    assert history.lock_wait_share.tolist() == [[0.25, 0.0]]
    assert history.retries.tolist() == [[7, 0]]
    assert history.restarts.tolist() == [[0, 2]]
    assert math.isnan(history.loss[0, 0])
    assert history.loss[0, 1] == 0.25
    assert history.seconds.tolist() == [4.0]


def test_full_table_is_thinned_and_loses_no_push() -> None:
    run = Watched(workers=1)
    recorder = Recorder(interval=1.0, most=10)
    recorder.start(run.view)
    run.sit(0, NOBODY)
    for step in range(1, 101):
        run.elapsed = float(step)
        run.stores[0].push(1, times=step)
        recorder.tick(run.elapsed)  # also when it comes more often than is asked for
        assert len(recorder.history().samples) < 10
    recorder.end(None)
    history = recorder.history()
    assert recorder.interval == 16.0
    assert history.pushes.sum() == 5050
    ends = history.seconds.astype(int)
    assert np.cumsum(history.pushes).tolist() == [end * (end + 1) // 2 for end in ends]


def test_history_of_a_run_that_never_started() -> None:
    run = Watched(workers=2)
    recorder = Recorder()
    recorder.start(run.view)
    recorder.end(RuntimeError())
    history = recorder.history()
    assert history.pushes.shape == (0, 2)
    assert len(history.seconds) == 0


def test_processor_time_of_processes_threads_and_cores() -> None:
    before, own = process_seconds(os.getpid()), time.process_time()
    assert before is not None
    burn(0.3)
    after = process_seconds(os.getpid())
    assert after is not None
    assert after - before == pytest.approx(time.process_time() - own, abs=0.03)
    assert process_seconds(NOBODY) is None
    assert thread_seconds(NOBODY) is None
    assert core_seconds([10**6]) == {}


def test_processor_time_of_a_thread_alone() -> None:
    found: list[float | None] = []

    def work() -> None:
        burn(0.2, time.thread_time)
        found.extend((thread_seconds(threading.get_native_id()), time.thread_time()))

    thread = threading.Thread(target=work)
    thread.start()
    burn(0.2, time.thread_time)
    thread.join()
    assert found[0] == pytest.approx(found[1], abs=0.03)


def test_a_core_is_busy_while_we_keep_it_busy() -> None:
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, {core})
    try:
        before = core_seconds([core])[core]
        burn(0.3)
        assert core_seconds([core])[core] - before >= 0.27
    finally:
        os.sched_setaffinity(0, cores)


def test_cpu_use_of_a_worker_over_its_replacement() -> None:
    """Times of two consecutive processes add up; between them the use is unknown."""
    run = Watched(workers=1)
    sampler = Sampler(run.view)
    code = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    least = most = 0.0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            run.processes[0] = process.pid
            sampler.sample()
            deadline = time.monotonic() + 30
            while (process_seconds(process.pid) or 0) < 0.25 and time.monotonic() < deadline:
                time.sleep(0.01)
            run.elapsed += 1.0
            least += process_seconds(process.pid) or 0
            last = sampler.sample()
            most += process_seconds(process.pid) or 0
            process.communicate(b"\n")
        run.processes[0] = None
        assert math.isnan(sampler.sample().cpu_seconds[0])
    assert 0.5 <= least <= last.cpu_seconds[0] <= most
