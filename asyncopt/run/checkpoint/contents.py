"""The part of a run's arguments that a checkpoint holds: read it and write it back.

Tensors have names: ``modules.0.conv.weight`` for the parameters and persistent buffers of the first
module among the arguments, ``optimizers.0.params.3`` for an optimizer's parameter that no module
has, ``optimizers.0.state.3.exp_avg`` for its state. All other data, such as the result of a
module's ``get_extra_state``, is a tree of plain JSON; tensors in it, such as a learning rate, have
names that begin with ``tree.``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from asyncopt.errors import CheckpointError
from asyncopt.optim.averaging import Averaging
from asyncopt.optim.base import Optimizer
from asyncopt.optim.parameters import kernel_of
from asyncopt.optim.reach import Trained
from asyncopt.run.checkpoint.codec import decode, encode
from asyncopt.run.checkpoint.modules import buffers_of, encoded_extra_state, with_extra_state

__all__ = ["Contents"]

IN_TREE = "tree."  # begins the names of tensors that the tree refers to
EXTRA_STATE = f"{IN_TREE}modules."  # ... in the extra state of modules


class Contents:
    """The optimizers, modules and learning-rate schedulers among some arguments.

    Args:
        args: the objects, or objects that refer to them; see :mod:`asyncopt.optim.reach`.

    Raises:
        CheckpointError: an optimizer keeps part of its state in each worker, or is not one of
            asyncopt's.
    """

    def __init__(self, args: object) -> None:
        trained = Trained.of(args)
        for each in trained.optimizers:
            if isinstance(each, Averaging):
                raise CheckpointError(
                    "args: expected optimizers whose whole state lies in a store, got "
                    f"{type(each).__name__}, which trains private replicas; save its state_dict() "
                    "from a worker instead"
                )
        for other in trained.others:
            raise CheckpointError(
                f"args: expected optimizers of asyncopt, got {type(other).__name__} of "
                f"{type(other).__module__}, of which nothing would be saved; use asyncopt's, or "
                "save its state_dict() yourself"
            )
        self._optimizers: list[Optimizer] = trained.optimizers
        self._modules = trained.modules
        self._schedulers = trained.schedulers

    @property
    def pushes(self) -> int:
        """Number of pushes to all stores."""
        return sum(opt.store.version for opt in self._optimizers if opt.store is not None)

    @torch.no_grad()
    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors by name, not copied, and the tree.

        Raises:
            CheckpointError: a state dict holds something other than plain data.
        """
        for opt in self._optimizers:
            _ = opt.stepper.plan  # allocates all state
            if opt.store is not None and opt.is_replica:
                opt.pull()
        tensors = self._tensors(in_stores=False)
        return tensors, self._tree(tensors)

    @torch.no_grad()
    def write(self, tensors: dict[str, torch.Tensor], tree: dict[str, Any]) -> None:
        """Restore the values from ``read``; other workers must not push meanwhile.

        Raises:
            CheckpointError: the arguments do not match those that were read. Nothing was changed.
        """
        self.read()  # allocates all state
        homes = self._tensors(in_stores=True)
        states = self._check(tree, tensors)
        buffers = [each for i, module in enumerate(self._modules) for each in buffers_of(i, module)]
        saved = {name: each for name, each in tensors.items() if not name.startswith(IN_TREE)}
        for place in buffers:
            if not place.is_persistent:  # checkpoints of format 1 have them
                saved.pop(place.name, None)
        other = [place for place in buffers if place.differs_from(saved.get(place.name))]
        for place in other:
            homes.pop(place.name, None)
            saved.pop(place.name)
        _check_tensors(saved, homes)

        for place in other:
            place.replace(tensors[place.name])
        for name, home in homes.items():
            home.copy_(tensors[name])
        for opt, each in zip(self._optimizers, tree["optimizers"], strict=True):
            if opt.store is not None:
                opt.store.segment.restore_version(each["version"])
                opt.pull()
        self._set_private(tree, states, tensors, [True] * len(self._optimizers))

    def read_private(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """State of a worker's own copies that no store holds; adds its tensors to ``tensors``."""
        return self._tree(tensors)

    @torch.no_grad()
    def write_private(self, tree: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Restore a worker's copies to the values from ``read_private``.

        Hyperparameters are restored only where one of the schedulers sets them. All others are left
        to ``fn`` and the schedulers that it makes, which start from the first learning rate.

        Raises:
            CheckpointError: the copies do not match those that were read. Nothing was changed.
        """
        states = self._check(tree, tensors)
        scheduled = {id(getattr(each, "optimizer", None)) for each in self._schedulers}
        self._set_private(tree, states, tensors, [id(opt) in scheduled for opt in self._optimizers])

    def _check(
        self, tree: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> list[dict[str, Any]]:
        """The schedulers' states; raises unless the tree matches these objects."""
        here = self._tree({})
        _check_tree(tree, here)
        for i, (then, now) in enumerate(zip(tree["modules"], here["modules"], strict=True)):
            if "extra" in then:
                _check_keys(f"modules[{i}]: extra state", then["extra"], now["extra"])
        states = [decode(each["state"], tensors) for each in tree["schedulers"]]
        for i, (state, scheduler) in enumerate(zip(states, self._schedulers, strict=True)):
            _check_keys(f"schedulers[{i}]", state, scheduler.state_dict())
        return states

    def _set_private(
        self,
        tree: dict[str, Any],
        states: list[dict[str, Any]],
        tensors: dict[str, torch.Tensor],
        with_hyper: list[bool],
    ) -> None:
        for opt, each, hyper_too in zip(
            self._optimizers, tree["optimizers"], with_hyper, strict=True
        ):
            opt.stepper.seed = each["seed"]
            if not hyper_too:
                continue
            for group, hyper in zip(opt.param_groups, each["groups"], strict=True):
                _set_hyper(group, decode(hyper["hyper"], tensors))
        for scheduler, state in zip(self._schedulers, states, strict=True):
            scheduler.load_state_dict(state)
        for module, saved in zip(self._modules, tree["modules"], strict=True):
            extra = copy.deepcopy(decode(saved.get("extra", {}), tensors))
            for name, part in with_extra_state(module):
                if name in extra:
                    part.set_extra_state(extra[name])

    def changed_hyperparameters(
        self, tree: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> list[str]:
        """Hyperparameters that :meth:`write` will change, except those that schedulers set.

        Returns:
            Phrases such as "optimizers[0]: lr is 0.1 in the checkpoint, 0.01 here".
        """
        found = []
        for i, (opt, each) in enumerate(zip(self._optimizers, tree["optimizers"], strict=False)):
            for group, hyper in zip(opt.param_groups, each["groups"], strict=False):
                saved = decode(hyper["hyper"], tensors)
                scheduled = _SCHEDULED if "initial_lr" in {**saved, **group} else set()
                for name in sorted((saved.keys() & group.keys()) - scheduled):
                    if not _are_equal(saved[name], group[name]):
                        both = f"{saved[name]} in the checkpoint, {group[name]} here"
                        found.append(f"optimizers[{i}]: {name} is {both}")
        return list(dict.fromkeys(found))

    def _tensors(self, *, in_stores: bool) -> dict[str, torch.Tensor]:
        """Tensors that hold the values, by name.

        Args:
            in_stores: for a replica, use the store's memory rather than the replica.
        """
        found: dict[str, torch.Tensor] = {}
        homes = {
            id(param): home
            for opt in self._optimizers
            for param, home, _ in _parameters(opt, in_stores)
        }
        named: set[int] = set()
        parameters = (
            (f"modules.{i}.{name}", tensor)
            for i, module in enumerate(self._modules)
            for name, tensor in module.named_parameters()
        )
        buffers = (
            (each.name, each.tensor)
            for i, module in enumerate(self._modules)
            for each in buffers_of(i, module)
            if each.is_persistent
        )
        for name, tensor in (*parameters, *buffers):
            if tensor is not None and id(tensor) not in named:
                named.add(id(tensor))
                found[name] = homes.get(id(tensor), tensor.data)
        for i, opt in enumerate(self._optimizers):
            for k, (param, home, state) in enumerate(_parameters(opt, in_stores)):
                if id(param) not in named:
                    named.add(id(param))
                    found[f"optimizers.{i}.params.{k}"] = home
                for name, value in state.items():
                    found[f"optimizers.{i}.state.{k}.{name}"] = value
        return found

    def _tree(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Everything but tensors; adds tensors of hyperparameters and schedulers to ``tensors``."""
        return {
            "optimizers": [
                {
                    "type": type(opt).__name__,
                    "seed": opt.stepper.seed,
                    "version": 0 if opt.store is None else opt.store.version,
                    "groups": [
                        {
                            "params": len(group["params"]),
                            "hyper": encode(
                                _hyper(group), f"{IN_TREE}optimizers.{i}.groups.{g}", tensors
                            ),
                        }
                        for g, group in enumerate(opt.param_groups)
                    ],
                }
                for i, opt in enumerate(self._optimizers)
            ],
            "modules": [
                {
                    "type": type(module).__name__,
                    "extra": {
                        name: encoded_extra_state(part, f"{EXTRA_STATE}{i}.{name}", tensors)
                        for name, part in with_extra_state(module)
                    },
                }
                for i, module in enumerate(self._modules)
            ],
            "schedulers": [
                {
                    "type": type(scheduler).__name__,
                    "state": encode(scheduler.state_dict(), f"{IN_TREE}schedulers.{i}", tensors),
                }
                for i, scheduler in enumerate(self._schedulers)
            ],
        }


#: Hyperparameters that schedulers may set, besides the entries that they add to a group.
_SCHEDULED = {"lr", "momentum", "betas"}


def _are_equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        pair = (torch.as_tensor(each, device="cpu").double() for each in (one, other))
        return torch.equal(*pair)
    return one == other


def _parameters(
    opt: Optimizer, in_stores: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Each parameter, the tensor that holds its value, and its state."""
    sharing = opt.sharing
    places = iter(sharing.layout.places) if sharing is not None else iter(())
    for group in opt.param_groups:
        for param in group["params"]:
            if sharing is None or not in_stores:
                state = opt.state.get(param, {})
                own = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
                yield param, param.data, own
            else:
                place = next(places)
                kernel = kernel_of(opt, param, group)
                yield param, sharing.param(place), sharing.state(place).entries(kernel)


def _hyper(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _set_hyper(group: dict[str, Any], saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        if isinstance(group.get(name), torch.Tensor):  # a scheduler may hold it too
            group[name].copy_(torch.as_tensor(value, device="cpu"))
        else:
            group[name] = value


def _check_tree(saved: dict[str, Any], now: dict[str, Any]) -> None:
    for kind in ("optimizers", "modules", "schedulers"):
        if len(saved[kind]) != len(now[kind]):
            raise CheckpointError(
                f"args: expected {len(saved[kind])} {kind}, as in the checkpoint, got "
                f"{len(now[kind])}; pass what was saved"
            )
        for i, (then, here) in enumerate(zip(saved[kind], now[kind], strict=True)):
            _check_equal(f"{kind}[{i}]", then["type"], here["type"])
    for i, (then, here) in enumerate(zip(saved["optimizers"], now["optimizers"], strict=True)):
        _check_equal(f"optimizers[{i}]: parameters in each group", _sizes(then), _sizes(here))


def _check_equal(what: str, there: object, here: object) -> None:
    if there != here:
        raise CheckpointError(
            f"{what}: expected {there}, as in the checkpoint, got {here}; build what was saved, or "
            "begin anew in another directory"
        )


def _sizes(opt: dict[str, Any]) -> list[int]:
    return [group["params"] for group in opt["groups"]]


def _check_tensors(saved: dict[str, torch.Tensor], homes: dict[str, torch.Tensor]) -> None:
    for names, what in (
        (homes.keys() - saved.keys(), "are not in it"),
        (saved.keys() - homes.keys(), "are missing"),
    ):
        if names:
            some = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise CheckpointError(
                f"args: expected the tensors of the checkpoint, got others: {some} {what}; pass "
                "what was saved"
            )
    for name, home in homes.items():
        _check_equal(name, _spell(saved[name]), _spell(home))


def _spell(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _check_keys(name: str, saved: dict[str, Any], now: dict[str, Any]) -> None:
    if differ := saved.keys() ^ now.keys():
        raise CheckpointError(
            f"{name}: expected the entries of the checkpoint, got others: "
            f"{', '.join(sorted(differ))}; build it as it was when it was saved"
        )
