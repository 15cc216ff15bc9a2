"""Base of averaging between the ranks of a process group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch

from asyncopt.distributed.mean import Flat, Mean
from asyncopt.distributed.ranks import Ranks, digest
from asyncopt.optim.wrapper import Wrapper

__all__ = ["PeerAveraging"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class PeerAveraging(Wrapper):
    """A rank's own optimizer, which exchanges parameters with the other ranks every `every` steps.

    An exchange begins with a snapshot. Its mean over all ranks is computed while `overlap` further
    local steps are taken; the resulting correction is then added to the current parameters. The
    step at which this happens is fixed and does not depend on when the mean arrives, so runs are
    reproducible. If the mean is not there by then, ``step`` waits on the CPU, and the stream waits
    on a GPU.

    All ranks make the optimizer together, with the same arguments and the same shapes, and start
    with the first rank's parameters and buffers; so load a model first. All call ``step`` equally
    often (a ``GradScaler`` that skips one rank's step breaks that; bfloat16 needs none), ``pull``
    together, and other collectives of the group in the same order. Parameters of 16 bits are
    averaged in float32. Additional memory: two copies of the parameters, or three with a center.

    No exchange changes frozen layers that `optimizer` does not have, nor buffers of integers: they
    are compared at the start, by a digest, and must be equal on all ranks.

    Args:
        optimizer: takes the local steps; any torch optimizer, of this package only if it is not
            shared. Parameters of float16, bfloat16, float32 or float64, dense.
        every: local steps between two exchanges.
        overlap: local steps that an exchange may take: 0 to wait for it at once, at most, and by
            default, `every`.
        model: the module that has the parameters. All of it that no exchange changes is compared at
            the start; without it, only `buffers` are.
        buffers: tensors that every exchange replaces by their mean, or moves to it, such as running
            statistics; those that are not floating point stay each rank's own. Default: all of
            `model`.
        group: a process group of torch.distributed. Default: the default group.

    Attributes:
        optimizer, every, overlap: as given.

    Raises:
        PeerError: from here, ``step`` or ``pull``: a rank died, or did not come within the group's
            timeout. Parameters and state are then those after the local steps. Under NCCL
            torch may end the process instead (``TORCH_NCCL_ASYNC_ERROR_HANDLING``).
        RuntimeError: there is no process group yet.
        TypeError, ValueError: an argument is wrong, or not the same on all ranks.
    """

    overlap: int

    #: State that is the same on all ranks, such as a center; None if the method has none.
    _center: Flat | None = None

    @torch.no_grad()
    def __init__(
        self,
        optimizer: Any,
        every: Any,
        *,
        overlap: Any,
        model: Any,
        buffers: Iterable[torch.Tensor] | None,
        group: Any,
    ) -> None:
        self._check(optimizer, every)
        if overlap is None:
            overlap = every
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= every:
            raise ValueError(
                f"overlap: expected a number of steps from 0 to every={every}, got {overlap!r}"
            )
        self._ranks = Ranks(group)
        self.__setstate__({"optimizer": optimizer, "every": every, "overlap": overlap})
        self._steps = 0
        self._begun = 0  # the step at which the last exchange began
        self._under_way = False
        params = {f"params[{i}]": p for i, p in enumerate(self._params())}
        if model is not None and not isinstance(model, torch.nn.Module):
            raise TypeError(f"model: expected a module or None, got {type(model).__name__}")
        if buffers is None:
            buffers = () if model is None else model.buffers()
        named = _named(buffers)
        floating = {name: buffer for name, buffer in named.items() if buffer.is_floating_point()}
        tensors = params | floating
        for name, tensor in tensors.items():
            if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
                raise ValueError(
                    f"{name}: expected a dense tensor of float16, bfloat16, float32 or float64, "
                    f"got {tensor.dtype}, {tensor.layout}"
                )
            self._ranks.check_device(name, tensor)
        self._mean = Mean(list(params.values()), self._ranks)
        self._buffers = Mean(list(floating.values()), self._ranks)
        facts = {
            "method": type(self).__name__,
            "every": every,
            "overlap": overlap,
            "params": len(params),
            "buffers": len(floating),
            **{name: f"{t.dtype} of shape {tuple(t.shape)}" for name, t in tensors.items()},
            **self._prepare(),
        }
        self._ranks.agree(facts)
        still = _rest_of(model, named, tensors)
        self._ranks.agree(
            {name: digest(tensor) for name, tensor in still.items()},
            "; no exchange changes it, so load one state dict on all ranks before",
        )
        with self._ranks.meeting("taking the first rank's parameters"):
            self._mean.broadcast()
            self._buffers.broadcast()
        if self._center is not None:
            self._center.copy_(self._mean.start.buffers)

    # --- The method ----------------------------------------------------------------------------

    def _prepare(self) -> dict[str, object]:
        """Set up the method; return further facts that must be equal on all ranks."""
        raise NotImplementedError

    def _blend(self) -> None:
        """Correct the parameters by the mean, which has arrived."""
        raise NotImplementedError

    def _unite(self) -> None:
        """Make the parameters equal on all ranks after an exchange, if they are not."""

    @torch.no_grad()
    def pull(self) -> None:
        """End an exchange in progress, exchange the steps since, and make all models equal.

        All ranks call it after the same number of steps: at the end, or to evaluate the model.

        Raises:
            PeerError: a rank died or did not come.
            ValueError: the ranks have not taken the same number of steps.
        """
        if self._under_way:
            self._finish()
        self._ranks.agree({"steps": self._steps})
        if self._steps > self._begun:
            self._begin()
            self._finish()
        self._unite()

    # --- Exchanges -----------------------------------------------------------------------------

    def _meet(self) -> None:
        """End and begin the exchanges that are due after this many steps."""
        if self._under_way and self._steps >= self._begun + self.overlap:
            self._finish()
        if self._steps > self._begun and self._steps % self.every == 0:
            self._begin()
            if self.overlap == 0:
                self._finish()

    @torch.no_grad()
    def _begin(self) -> None:
        self._begun = self._steps
        with self._meeting():
            self._mean.begin()
            self._buffers.begin()
        self._under_way = True

    @torch.no_grad()
    def _finish(self) -> None:
        self._under_way = False
        with self._meeting():
            self._mean.wait()
            self._buffers.wait()
        self._blend()
        self._take(self._buffers, self._buffers.mean)

    def _take(self, tensors: Mean, target: Flat) -> None:
        """Move tensors by the difference of `target` and their values when the exchange began."""
        if self._steps > self._begun:
            tensors.shift(target)
        else:  # exactly: adding a difference would leave every rank its own rounding
            tensors.put(target)

    def _meeting(self) -> Any:
        return self._ranks.meeting(f"the exchange after step {self._begun}")

    # --- State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The local optimizer's, and as ``"averaging"`` this rank's part of the method.

        It waits for an exchange in progress and includes its result, but does not change the
        parameters: training continues as if it had not been called. To resume exactly, every rank
        saves and loads its own state dict (and its own model's, after the optimizer has been made);
        after ``pull`` the first rank's model suffices.

        Raises:
            PeerError: a rank died or did not come.
        """
        averaging: dict[str, Any] = {"steps": self._steps, "begun": self._begun}
        if self._under_way:
            with self._meeting():
                for mean in (self._mean, self._buffers):
                    mean.wait()
            averaging["exchange"] = {name: f.copy() for name, f in self._travelling().items()}
        if self._center is not None:
            averaging["center"] = self._center.copy()
        return {**self.optimizer.state_dict(), "averaging": averaging}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict; that of a local optimizer alone is also accepted.

        Raises:
            ValueError: it belongs to another model.
        """
        rest = dict(state_dict)
        averaging = rest.pop("averaging", None)
        if averaging is not None:
            exchange = averaging.get("exchange")
            loaded = dict(self._travelling()) if exchange is not None else {}
            saved = dict(exchange or {})
            if self._center is not None:
                loaded["center"], saved["center"] = self._center, averaging.get("center", ())
            for name, flat in loaded.items():
                flat.check(name, saved.get(name, ()))
        self.optimizer.load_state_dict(rest)
        if averaging is not None:
            for mean in (self._mean, self._buffers):
                mean.wait()  # nothing may arrive in what is loaded
            for name, flat in loaded.items():
                flat.copy_(saved[name])
            self._steps, self._begun = averaging["steps"], averaging["begun"]
            self._under_way = exchange is not None

    def _travelling(self) -> dict[str, Flat]:
        return {
            "start": self._mean.start,
            "mean": self._mean.mean,
            "buffers start": self._buffers.start,
            "buffers mean": self._buffers.mean,
        }

    def __getstate__(self) -> NoReturn:
        """Refused: a process group cannot leave its process."""
        raise TypeError(
            f"{type(self).__name__}: expected to stay in the process that made it, got a copy or "
            "pickle; make it on every rank, or use its state_dict"
        )


def _rest_of(
    model: torch.nn.Module | None,
    buffers: dict[str, torch.Tensor],
    exchanged: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The tensors of a model, and buffers, that no exchange changes, by their names in messages."""
    tensors = [] if model is None else [*model.named_parameters(), *model.named_buffers()]
    named = {f"model.{name}": tensor for name, tensor in tensors}
    rest, seen = {}, set(map(id, exchanged.values()))
    for name, tensor in (named | buffers).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            rest[name] = tensor
    return rest


def _named(buffers: Iterable[Any]) -> dict[str, torch.Tensor]:
    """Buffers by their names in messages."""
    if isinstance(buffers, torch.nn.Module):
        raise TypeError(
            f"buffers: expected tensors, got a module, {type(buffers).__name__}; pass it as "
            "model=, or its .buffers()"
        )
    found = {f"buffers[{i}]": buffer for i, buffer in enumerate(buffers)}
    for name, buffer in found.items():
        if not isinstance(buffer, torch.Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(buffer).__name__}")
    return found
