"""Workers with a device: one and two per device, beside other uses of the devices.

On the host it measures the overhead; on a GPU the gain. "hidden" is the share of the
transfers' time that ran beside computing, by spans. With two GPUs, DDP over NCCL runs in the same
rounds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import asyncopt
from benches.conftest import Say
from benches.interleave import Pair, interleave, record, replay
from benches.peers.training import spawn

pytestmark = pytest.mark.benchmark(timer=replay)

CUDA = torch.cuda.is_available()
GPU_ONLY = pytest.mark.skipif(not CUDA, reason="torch sees no CUDA device")

WARM, STEPS = 5, 40
ROUNDS = 9
#: Layers and batch: the first leaves a GPU idle between its kernels, the second does not.
SHAPES = {"small layers": (256, 12, 64), "large layers": (4096, 6, 4096)}


def network(width: int, layers: int) -> nn.Module:
    torch.manual_seed(0)
    each = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*each)


def train(
    device: torch.device, model: nn.Module, optimizer: Any, width: int, batch: int, steps: int
) -> None:
    x = torch.randn(batch, width, device=device)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.current_stream().synchronize()


def work(
    worker: asyncopt.Worker, model: nn.Module, optimizer: Any, width: int, batch: int, steps: int
) -> float:
    """Seconds for the steps, from a barrier on."""
    train(worker.device, model, optimizer, width, batch, WARM)
    optimizer.flush()
    worker.barrier()
    begin = time.monotonic()
    train(worker.device, model, optimizer, width, batch, steps)
    optimizer.flush()
    return time.monotonic() - begin


def launched(
    shape: tuple[int, int, int], steps: int, seen: dict[str, list[float]], name: str, **options: Any
) -> Callable[[], float]:
    """A run as a sampler: seconds per step of one worker over the steps of all."""
    width, layers, batch = shape

    def sample() -> float:
        model = network(width, layers)
        before = [param.detach().clone() for param in model.parameters()]
        optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
        run = asyncopt.launch(work, (model, optimizer, width, batch, steps), **options)
        assert run.ledger.pushes == run.workers * (WARM + steps)
        assert any(
            not torch.equal(one, other)
            for one, other in zip(before, model.parameters(), strict=True)
        )
        if run.transfers is not None:
            seen.setdefault(name, []).append(run.transfers.hidden)
        return float(max(run.results) / (steps * run.workers))

    return sample


def alone(shape: tuple[int, int, int], steps: int, device: str) -> Callable[[], float]:
    """torch by itself: no store, no transfer."""
    width, layers, batch = shape

    def sample() -> float:
        where = torch.device(device)
        model = network(width, layers).to(where)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        train(where, model, optimizer, width, batch, WARM)
        begin = time.monotonic()
        train(where, model, optimizer, width, batch, steps)
        return (time.monotonic() - begin) / steps

    return sample


def data_parallel(rank: int, address: str, shape: tuple[int, int, int], steps: int) -> None:
    """One process of DDP over NCCL; the first writes its seconds per step of one worker."""
    width, layers, batch = shape
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", f"file://{address}", rank=rank, world_size=2)
    model = DistributedDataParallel(network(width, layers).to(device), [device])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    train(device, model, optimizer, width, batch, WARM)
    distributed.barrier()
    begin = time.monotonic()
    train(device, model, optimizer, width, batch, steps)
    if rank == 0:
        with open(f"{address}.seconds", "w") as file:
            file.write(repr((time.monotonic() - begin) / (2 * steps)))
    distributed.destroy_process_group()


def ddp(shape: tuple[int, int, int], steps: int) -> Callable[[], float]:
    def sample() -> float:
        with tempfile.TemporaryDirectory() as folder:
            address = os.path.join(folder, "meeting")
            spawn(data_parallel, (address, shape, steps), processes=2)
            with open(f"{address}.seconds") as file:
                return float(file.read())

    return sample


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=GPU_ONLY)])
def test_device_workers(benchmark: Any, device: str, shape: str, quick: bool, say: Say) -> None:
    if device == "cpu" and shape == "large layers":
        pytest.skip("for a GPU: a step takes seconds on the host")
    steps = 10 if quick else STEPS
    hidden: dict[str, list[float]] = {}

    def run(name: str, count: int, lag: int) -> Callable[[], float]:
        devices = [device] * count
        # Threads share torch's one thread for the backward passes of a GPU.
        mode = "thread" if device == "cpu" else "process"
        options = {"devices": devices, "lag": lag, "threads_per_worker": 1, "mode": mode}
        return launched(SHAPES[shape], steps, hidden, name, **options)

    one, two = "one worker, lag 1", "two workers, lag 1"
    samplers = {
        two: run(two, 2, 1),
        one: run(one, 1, 1),
        "one worker, lag 0": run("one worker, lag 0", 1, 0),
        "torch alone": alone(SHAPES[shape], steps, device),
    }
    goals = {one: 1.8 if device != "cpu" and shape == "small layers" else None}
    if device != "cpu" and torch.cuda.device_count() > 1:
        both = "two devices, lag 1"
        options = {"devices": ["cuda:0", "cuda:1"], "lag": 1}
        samplers[both] = launched(SHAPES[shape], steps, hidden, both, **options)
        samplers["DDP nccl, two devices"] = ddp(SHAPES[shape], steps)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        comparison = interleave(samplers, 3 if quick else ROUNDS)
    finally:
        torch.set_num_threads(before)
    rows = {name: {"hidden": sorted(each)[len(each) // 2]} for name, each in hidden.items()}
    pairs = [Pair(two, name, goals.get(name)) for name in samplers if name != two]
    for line in record(
        benchmark,
        comparison,
        pairs,
        suite="devices",
        case={"device": _named(device), "shape": shape, "steps": steps},
        rows=rows,
    ):
        say(line)
    for name, row in rows.items():
        say(f"{name}: {row['hidden']:.1%} of the transfers hidden")


def _named(device: str) -> str:
    return torch.cuda.get_device_name(device) if device != "cpu" else "the host"
