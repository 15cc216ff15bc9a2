"""Functions of the ranks of `test_fsdp2`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate

import asyncopt

RANKS = 2


def model_and(optimizer: Any, **options: Any) -> tuple[Any, Any]:
    """A model whose rows do not divide evenly, one of one row, sharded; and its optimizer."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, optimizer(model.parameters(), **options)


def steps(model: nn.Module, optimizer: Any, count: int, *, clip: bool = True) -> None:
    """Train on this rank's data."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    for _ in range(count):
        x = torch.randn(8, 6, dtype=torch.float64, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def compare(ones: tuple[Any, Any], others: tuple[Any, Any], scale: float) -> None:
    """Parameters and full optimizer state agree; state is divided as its parameter is."""
    for a, b in zip(ones[0].parameters(), others[0].parameters(), strict=True):
        torch.testing.assert_close(a.full_tensor(), b.full_tensor(), rtol=0, atol=scale)
    whole = StateDictOptions(full_state_dict=True)
    full: Any = [get_optimizer_state_dict(*each, options=whole)["state"] for each in (ones, others)]
    assert full[0].keys() == full[1].keys()
    for name, entries in full[1].items():
        assert full[0][name].keys() == entries.keys()
        for key, value in entries.items():
            torch.testing.assert_close(
                full[0][name][key].double(), value.double(), rtol=0, atol=scale
            )
    for param, entries in ones[1].state.items():
        for key, value in entries.items():
            if key not in ("step", "eta", "mu"):
                assert isinstance(value, DTensor), key
                assert value.placements == param.placements
                assert value.shape == param.shape


def train(rank: int, rendezvous: Path, cases: list[tuple[str, dict[str, Any]]]) -> None:
    """Each rule beside torch's, with state saved whole and divided and loaded into a new one."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    try:
        for rule, options in cases:
            theirs = model_and(getattr(torch.optim, rule), **options)
            ours = model_and(getattr(asyncopt, rule), **options)
            start = [p.full_tensor().clone() for p in ours[0].parameters()]
            for each in (theirs, ours):
                steps(*each, 5)
            compare(ours, theirs, 1e-10)
            moved = [p.full_tensor() for p in ours[0].parameters()]
            assert not any(map(torch.equal, start, moved)), rule
            for full in (True, False):
                how = StateDictOptions(full_state_dict=full)
                continued = model_and(getattr(asyncopt, rule), **options)
                saved = copy.deepcopy(get_optimizer_state_dict(*ours, options=how))
                if full and not saved["state"]:
                    continue  # torch cannot load a whole state dict without tensors
                continued[0].load_state_dict(ours[0].state_dict())
                set_optimizer_state_dict(*continued, saved, options=how)
                kept = model_and(getattr(torch.optim, rule), **options)
                kept[0].load_state_dict(theirs[0].state_dict())
                kept[1].load_state_dict(copy.deepcopy(theirs[1].state_dict()))
                for each in (continued, kept):
                    steps(*each, 3)
                compare(continued, kept, 1e-10)
        refuse()
    finally:
        dist.destroy_process_group()


def refused(call: Any, *words: str) -> None:
    """`call` raises ValueError with these words."""
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  # the words are looked for below
        call()
    assert all(word in str(refusal.value) for word in words), refusal.value


def refuse() -> None:
    """Options that DTensors do not support are refused by name."""
    model, optimizer = model_and(asyncopt.Adam, lr=0.1)
    params = list(model.parameters())
    refused(lambda: asyncopt.Adam(params, flat_grads=True), "flat_grads", "DTensor")
    refused(lambda: asyncopt.Adam(params, rowwise=True), "rowwise", "DTensor")
    refused(lambda: asyncopt.Adam(params, sparse_updates="dense"), "sparse_updates", "DTensor")
    refused(optimizer.share_memory, "share_memory", "DTensor")
    rows = torch.tensor([0])
    refused(lambda: optimizer.step_rows(params[0], rows, torch.ones(1, 6)), "param", "DTensor")
    steps(model, optimizer, 1)
    before = [p.to_local().clone() for p in params]
    params[0].grad = torch.zeros_like(params[0])
    params[0].grad = params[0].grad.redistribute(placements=[Replicate()])
    refused(optimizer.step, "params[0].grad", "Shard", "Replicate")
    assert all(map(torch.equal, before, [p.to_local() for p in params]))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = torch.zeros(5, 6).double()
    refused(lambda: optimizer.load_state_dict(saved), "state['exp_avg']", "plain")
