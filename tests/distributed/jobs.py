"""Functions of the tests' ranks, which import this module."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

import asyncopt
from asyncopt import Worker
from asyncopt.distributed import ElasticAveraging, LocalSteps

from .cases import CASES, LOCAL, NESTEROV, OURS, STEPS, Place, backward, data, flat, model


@contextmanager
def group(worker: Worker, place: Place, path: str, seconds: float = 60.0) -> Iterator[torch.device]:
    """The default process group of all workers, met in a new file; the worker's device."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    device = place.device_of(worker.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        place.backend,
        f"file://{path}",
        rank=worker.rank,
        world_size=worker.world_size,
        timeout=timedelta(seconds=seconds),
    )
    yield device
    dist.destroy_process_group()


def everything(worker: Worker, place: Place, path: str) -> dict[str, Any]:
    """Everything that needs ranks, in one launch."""
    with group(worker, place, path) as device:
        found: dict[str, Any] = {
            "histories": histories(worker.rank, device),
            "torch averager": averager(worker.rank, device),
            "data parallel": data_parallel(worker.rank, device),
            "bfloat16": [bfloat16(device, overlap) for overlap in (0, 1)],
            "buffers": buffers(worker.rank, device),
            "disagreements": disagreements(worker.rank, device),
            "uneven": uneven(worker.rank, device),
            "later": went_on_alone(worker, device),
        }
        for case in ("outer optimizer, overlapped", "elastic, overlapped"):
            found[f"resumed: {case}"] = resumed(case, worker.rank, device)
    return found


def wrapped(name: str, optimizer: torch.optim.Optimizer) -> Any:
    case = CASES[name]
    if case.method == "LocalSteps":
        return LocalSteps(optimizer, case.every, case.outer, overlap=case.overlap)
    return ElasticAveraging(optimizer, case.every, case.alpha, overlap=case.overlap)


def train(network: nn.Module, opt: Any, x: Tensor, y: Tensor, steps: int) -> list[Tensor]:
    """Parameters after each step."""
    found = []
    for _ in range(steps):
        backward(network, x, y)
        opt.step()
        found.append(flat(network))
    return found


def placed(rank: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    x, y = data(rank)
    return model(rank).to(device), x.to(device), y.to(device)


def histories(rank: int, device: torch.device) -> dict[tuple[str, str], Any]:
    """Parameters after each step, and after a pull."""
    found = {}
    for case in CASES:
        for name, local in (LOCAL if device.type == "cuda" else LOCAL | OURS).items():
            network, x, y = placed(rank, device)
            opt = wrapped(case, local(network.parameters()))
            steps = train(network, opt, x, y, STEPS)
            opt.pull()
            found[case, name] = steps, flat(network)
    return found


def averager(rank: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters of local SGD, ours and torch's."""
    network, x, y = placed(rank, device)
    local = torch.optim.SGD(network.parameters(), lr=0.1)
    opt = LocalSteps(local, 4, overlap=0, group=dist.new_group())
    ours = train(network, opt, x, y, STEPS)

    network, x, y = placed(0, device)[0], x, y
    local = torch.optim.SGD(network.parameters(), lr=0.1)
    averaging = PeriodicModelAverager(period=4, warmup_steps=3)
    theirs = []
    for _ in range(STEPS):
        backward(network, x, y)
        local.step()
        averaging.average_parameters(network.parameters())
        theirs.append(flat(network))
    return ours, theirs


def data_parallel(rank: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters under `every=1, overlap=0` and under DistributedDataParallel."""
    local = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    network, x, y = placed(rank, device)
    ours = train(network, LocalSteps(local(network.parameters()), 1, overlap=0), x, y, STEPS)
    network = nn.parallel.DistributedDataParallel(placed(rank, device)[0])
    return ours, train(network, local(network.parameters()), x, y, STEPS)


def bfloat16(device: torch.device, overlap: int) -> float:
    """A parameter of 1 after 40 outer steps, each too small for bfloat16."""
    weight = nn.Parameter(torch.ones(5, dtype=torch.bfloat16, device=device))
    outer = functools.partial(torch.optim.SGD, lr=2.0**-4)
    opt = LocalSteps(torch.optim.SGD([weight], lr=1.0), 1, outer, overlap=overlap)
    for _ in range(40):
        weight.grad = torch.full_like(weight, 2.0**-7)
        opt.step()
    assert weight.dtype == torch.bfloat16
    return float(weight.detach()[0])


def buffers(rank: int, device: torch.device) -> dict[str, list[Tensor]]:
    """The buffers after an exchange, and after one further step and `pull`."""
    norm = nn.BatchNorm1d(3, dtype=torch.float64, device=device)
    local = torch.optim.SGD(norm.parameters(), lr=0.1)
    opt = LocalSteps(local, 2, overlap=0, model=norm)

    def steps(*numbers: int) -> None:
        for step in numbers:
            norm(data(10 * step + rank)[0].to(device)).square().sum().backward()
            opt.step()

    steps(0, 1)
    exchanged = [b.cpu().clone() for b in norm.buffers()]
    steps(2)
    opt.pull()
    return {"exchanged": exchanged, "pulled": [b.cpu().clone() for b in norm.buffers()]}


def resumed(case: str, rank: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Steps after a checkpoint at step 5 with a pending exchange: continued, and loaded."""
    local = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    network, x, y = placed(rank, device)
    opt = wrapped(case, local(network.parameters()))
    train(network, opt, x, y, 5)
    file = io.BytesIO()
    torch.save({"model": network.state_dict(), "opt": opt.state_dict()}, file)
    went_on = train(network, opt, x, y, 6)

    network, x, y = placed(rank + 7, device)[0], x, y
    opt = wrapped(case, local(network.parameters()))
    train(network, opt, x, y, 4)  # so that it has an exchange of its own under way
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    network.load_state_dict(saved["model"])
    opt.load_state_dict(saved["opt"])
    return went_on, train(network, opt, x, y, 6)


def disagreements(rank: int, device: torch.device) -> list[str]:
    """Errors where the ranks' arguments or shapes differ; the parameters stay unchanged."""
    weights = [nn.Parameter(torch.full((3,), float(rank), device=device)) for _ in range(3)]
    other = nn.Parameter(torch.full((4,), float(rank), device=device))
    double = nn.Parameter(torch.full((3,), float(rank), device=device, dtype=torch.float64))
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    frozen, norm, head = nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)
    whole = nn.Sequential(frozen, norm, head).to(device)
    for p in whole.parameters():
        p.data.fill_(1)
    trained = functools.partial(LocalSteps, sgd(head.parameters()), 4, model=whole)

    def changed(tensor: Any, make: Callable[[], object]) -> object:
        """Call ``make`` while a tensor differs on the last rank."""
        tensor += rank
        try:
            return make()
        finally:
            tensor -= rank

    tries: list[Callable[[], object]] = [
        lambda: LocalSteps(sgd(weights), 4 + rank),
        lambda: LocalSteps(sgd(weights), 4, overlap=rank),
        lambda: LocalSteps(sgd([weights[0], other if rank else weights[1]]), 4),
        lambda: LocalSteps(sgd([weights[0], double if rank else weights[1]]), 4),
        lambda: LocalSteps(sgd(weights[rank:]), 4),
        lambda: LocalSteps(sgd(weights), 4, NESTEROV if rank else None),
        lambda: ElasticAveraging(sgd(weights), 4, alpha=0.2 + rank / 10),
        lambda: (ElasticAveraging if rank else LocalSteps)(sgd(weights), 4),
        trained,
        lambda: changed(frozen.weight.data, trained),
        lambda: changed(norm.num_batches_tracked, trained),
        lambda: LocalSteps(sgd(weights), 4, buffers=[torch.tensor([rank])]),
        lambda: changed(norm.running_mean, trained),  # which is the first rank's then
    ]
    said = []
    for make in tries:
        try:
            make()
        except ValueError as error:
            said.append(str(error))
        else:
            said.append("")
    assert all((weight == rank).all() for weight in [*weights, other, double])
    return said


def uneven(rank: int, device: torch.device) -> str:
    """Errors when the ranks pull after different numbers of steps."""
    network, x, y = placed(rank, device)
    opt = ElasticAveraging(torch.optim.SGD(network.parameters(), lr=0.1), 8)
    train(network, opt, x, y, 3 + rank)
    before = flat(network)
    try:
        opt.pull()
    except ValueError as error:
        assert torch.equal(flat(network), before)
        return str(error)
    return ""


def went_on_alone(worker: Worker, device: torch.device) -> bool:
    """The first rank takes two steps after the beginning of an exchange before others begin it."""
    network, x, y = placed(worker.rank, device)
    opt = LocalSteps(torch.optim.SGD(network.parameters(), lr=0.1), 3)
    if worker.rank == 0:
        train(network, opt, x, y, 5)
    worker.barrier(timeout=60)
    if worker.rank != 0:
        train(network, opt, x, y, 5)
    opt.pull()
    return True


def left_alone(worker: Worker, place: Place, folder: str) -> list[tuple[asyncopt.PeerError, bool]]:
    """Rank 1 first stands still, in the second group it dies; the error on rank 0, and whether
    its parameters are those of its local steps."""
    heard = []
    for how in ("stands still", "dies"):
        with group(worker, place, os.path.join(folder, how), seconds=5.0) as device:
            network, x, y = placed(0, device)
            opt = LocalSteps(torch.optim.SGD(network.parameters(), lr=0.1), 2)
            if worker.rank == 1:
                if how == "dies":
                    os._exit(3)
                worker.barrier(timeout=60)
                continue
            try:
                train(network, opt, x, y, 4)
            except asyncopt.PeerError as error:
                alone, _, _ = placed(0, device)
                train(alone, torch.optim.SGD(alone.parameters(), lr=0.1), x, y, 4)
                heard.append((error, torch.equal(flat(alone), flat(network))))
            if how == "stands still":
                worker.barrier(timeout=60)
    return heard
