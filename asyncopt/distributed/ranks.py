"""Ranks of a process group: checks that they match, and errors of lost peers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from asyncopt.errors import PeerError

__all__ = ["Ranks", "digest"]


class Ranks:
    """A process group that this process is in.

    Args:
        group: of torch.distributed; None for the default one.

    Attributes:
        size: number of ranks.

    Raises:
        RuntimeError: there is no process group yet.
        TypeError, ValueError: `group` is not a process group, or this process is not in it.
    """

    def __init__(self, group: Any) -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                "group: expected a process group, got none; call "
                "torch.distributed.init_process_group first"
            )
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(
                "group: expected one that this rank is in, got one of others; make the optimizer "
                "on its ranks only"
            )
        if group is not None and not isinstance(group, dist.ProcessGroup):
            raise TypeError(f"group: expected a process group or None, got {type(group).__name__}")
        self._group = group
        self.size = dist.get_world_size(group)

    def check_device(self, name: str, tensor: torch.Tensor) -> None:
        """Raise ValueError if the group has no backend for the tensor's device."""
        config = dist.get_backend_config(self._group)  # such as "cpu:gloo,cuda:nccl"
        backends = dict(entry.split(":") for entry in config.split(","))
        if tensor.device.type not in backends:
            raise ValueError(
                f"{name}: expected a device of the process group, {' or '.join(backends)}; got "
                f"{tensor.device}; move the model first, or name a backend for it in "
                "init_process_group"
            )

    def agree(self, facts: Mapping[str, object], remedy: str = "") -> None:
        """Check that all ranks call this with the same facts; else raise ValueError on all.

        Waits for a rank that does not call it until the group's timeout.

        Args:
            facts: by the names that the message has.
            remedy: ends the message.
        """
        everyone: list[Any] = [None] * self.size
        with self.meeting("agreeing on what to exchange"):
            dist.all_gather_object(everyone, dict(facts), group=self._group)
        for name in facts:
            said: dict[object, list[int]] = {}
            for rank, theirs in enumerate(everyone):
                said.setdefault(theirs.get(name), []).append(rank)
            if len(said) > 1:
                listed = ", ".join(f"{value} on rank {_listed(who)}" for value, who in said.items())
                raise ValueError(f"{name}: expected the same on all ranks, got {listed}{remedy}")

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Set the tensor on all ranks to the first rank's values."""
        dist.broadcast(tensor, group=self._group, group_src=0)

    def begin_sum(self, tensor: torch.Tensor) -> dist.Work:
        """Begin to replace the tensor by its sum over all ranks, with the same bits on each."""
        work: dist.Work = dist.all_reduce(tensor, group=self._group, async_op=True)
        return work

    @contextmanager
    def meeting(self, what: str) -> Iterator[None]:
        """Context whose errors of the process group name the operation and the ranks."""
        try:
            yield
        except RuntimeError as error:
            ranks = tuple(dist.get_process_group_ranks(self._group))
            raise PeerError(
                f"{what}: expected ranks {_listed(ranks)} to take part, got: {error}; a rank has "
                "ended, stands still or has taken fewer steps; start all again from a checkpoint",
                ranks,
            ) from error


def digest(tensor: torch.Tensor) -> str:
    """The dtype, shape and a hash of all bytes of a tensor, on any device and in any layout."""
    dense = tensor.detach().to("cpu")
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    values: Any = dense.contiguous().reshape(-1).view(torch.uint8).numpy()
    found = hashlib.blake2b(values, digest_size=8).hexdigest()
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} with digest {found}"


def _listed(ranks: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, ranks))
