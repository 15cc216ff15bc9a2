"""A worker's replicas and lanes on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from asyncopt.devices.lanes import ThreadLane, lane_of
from asyncopt.devices.push import Lanes, Log, naming
from asyncopt.devices.replica import DeviceReplica
from asyncopt.errors import DeviceError
from asyncopt.optim import Optimizer
from asyncopt.optim.averaging import Averaging
from asyncopt.optim.reach import Trained

__all__ = ["Station"]


class Station:
    """A worker's device and the objects trained there: a context for the worker's thread.

    Parameters that an optimizer trains become replicas of the store. Buffers and other parameters
    of modules become the worker's own; :meth:`rest` writes them back, if they are to be kept.

    Args:
        trained: the worker's own copies of the trained objects; optimizers must be shared.
        device: where the worker computes, with its index.
        lag: see :class:`asyncopt.devices.replica.DeviceReplica`.
        keeps: whether buffers are written back.
        log: gets the spans of each push.

    Raises:
        DeviceError: the device has no room for it, or fails.
    """

    def __init__(
        self, trained: Trained, device: torch.device, *, lag: int, keeps: bool, log: Log
    ) -> None:
        self.device = device
        self._keeps = keeps
        self._contexts = contextlib.ExitStack()
        self._lanes: Lanes | None = None
        self._replicas: list[DeviceReplica] = []
        self._own: list[tuple[torch.Tensor, torch.Tensor]] = []  # where it came from, the copy
        modules, optimizers = trained.modules, [*trained.optimizers, *trained.others]
        with self._on_device("a replica of the model"):
            self._enter()
            self._lanes = Lanes(
                device,
                out=lane_of(device, "asyncopt-out"),
                back=lane_of(device, "asyncopt-back"),
                push=ThreadLane("asyncopt-push", device),
            )
            self._move(modules, optimizers)
            for optimizer in optimizers:
                if isinstance(optimizer, Optimizer):
                    replica = DeviceReplica(optimizer, modules, self._lanes, lag, log)
                    self._replicas.append(replica)

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End background work and release the device."""
        for replica in self._replicas:
            replica.stop()
        if self._lanes is not None:
            self._lanes.close()
        for replica in self._replicas:
            replica.close()
        self._contexts.close()

    def flush(self) -> None:
        """Wait until all pushes are in their stores."""
        for replica in self._replicas:
            replica.flush()

    @torch.no_grad()
    def rest(self) -> None:
        """Flush, then write the worker's own tensors back, if they are to be kept."""
        for replica in self._replicas:
            replica.rest()
        if self._keeps:
            for home, own in self._own:
                home.copy_(own)

    def bring(self, batch: Any) -> Any:
        """Move a batch to the device: objects with a method ``to``, also nested ones."""
        if isinstance(batch, torch.Tensor):
            if self.device.type == "cuda" and batch.device.type == "cpu":
                batch = batch.pin_memory()
            return batch.to(self.device, non_blocking=True)
        if hasattr(batch, "to"):  # tensors, and types such as PackedSequence
            return batch.to(self.device)
        if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a NamedTuple
            return type(batch)(*map(self.bring, batch))
        if isinstance(batch, list | tuple):
            return type(batch)(map(self.bring, batch))
        if isinstance(batch, dict):
            return {key: self.bring(value) for key, value in batch.items()}
        return batch

    def _enter(self) -> None:
        """Context in which the calling thread uses this device and its own stream."""
        if self.device.type == "cuda":
            self._contexts.enter_context(torch.cuda.device(self.device))
            stream = torch.cuda.Stream(self.device)
            self._contexts.enter_context(torch.cuda.stream(stream))

    @contextlib.contextmanager
    def _on_device(self, what: str) -> Iterator[None]:
        """Context: device errors name the device and ``what``; errors close the station."""
        try:
            with naming(self.device, f"making {what}"):
                try:
                    yield
                except torch.OutOfMemoryError as error:
                    raise DeviceError(
                        f"{self.device}: expected room for {what}, got: {error}; use fewer workers "
                        "on this device, or a smaller model"
                    ) from error
        except BaseException:
            self.close()
            raise

    @torch.no_grad()
    def _move(
        self, modules: Iterable[torch.nn.Module], optimizers: Iterable[torch.optim.Optimizer]
    ) -> None:
        """Copy to the device all tensors of modules that no shared optimizer trains."""
        trained: set[int] = set()
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer | Averaging):
                continue
            params = [param for group in optimizer.param_groups for param in group["params"]]
            trained.update(map(id, params))
            if isinstance(optimizer, Averaging):  # its parameters are the worker's own already
                for param in params:
                    param.data = param.to(self.device)
                optimizer.optimizer.load_state_dict(optimizer.optimizer.state_dict())
        copies: dict[int, torch.Tensor] = {}  # by the ids of their originals
        made: set[int] = set()  # ids of the copies

        def own(home: torch.Tensor) -> torch.Tensor:
            copy = copies.get(id(home))
            if copy is None:
                copy = copies[id(home)] = home.to(self.device, copy=True)
                made.add(id(copy))
                self._own.append((home, copy))
            return copy

        for outermost in modules:
            for module in outermost.modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None and id(buffer) not in made:
                        module._buffers[name] = own(buffer)
                for param in module.parameters(recurse=False):
                    if id(param) not in trained:
                        trained.add(id(param))
                        param.data = own(param.detach())
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer | Averaging) and optimizer.state:
                optimizer.load_state_dict(optimizer.state_dict())  # to where its parameters are
