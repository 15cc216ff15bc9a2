"""Every scheduler of torch.optim.lr_scheduler drives our optimizers as it drives torch's."""

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from .twins import Twins, ours

Build = Callable[[Any], Any]

#: How to build each scheduler; `Base` stands for a user's subclass of LRScheduler.
BUILD: dict[str, Build] = {
    "LRScheduler": lambda o: HalvedEveryThird(o),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.93),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 5, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [4, 9, 15]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.4, total_iters=6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.4, total_iters=12),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)],
        milestones=[6],
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10, eta_min=1e-4),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-1, step_size_up=5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=30),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=12, power=2.0),
    "SWALR": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=8),
    # Those that drive momentum or betas refuse optimizers with neither; then without.
    "CyclicLR, lr alone": lambda o: lr_scheduler.CyclicLR(
        o, 1e-3, 1e-1, step_size_up=5, cycle_momentum=False, mode="exp_range", gamma=0.97
    ),
    "OneCycleLR, lr alone": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=30, cycle_momentum=False, three_phase=True
    ),
}


class HalvedEveryThird(lr_scheduler.LRScheduler):
    """A user's scheduler."""

    def get_lr(self) -> list[Any]:
        """Half of the last learning rate at every third step."""
        factor = 0.5 if self.last_epoch % 3 == 2 else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]


def test_every_scheduler_is_built() -> None:
    """A scheduler that a later torch brings is missing here until it is tested."""
    public = set(lr_scheduler.__all__)
    found = {n for n, v in vars(lr_scheduler).items() if inspect.isclass(v) and n in public}
    assert found == public
    assert public <= set(BUILD)


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", BUILD)
def test_scheduler(rule: str, name: str, tensor_lr: bool) -> None:
    """25 steps: equal hyperparameters at each, equal parameters after, and no warning."""
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    twins = Twins(rule)
    for optimizer, _ in twins.sides:
        optimizer.param_groups[0]["lr"] = copy.deepcopy(lr)
        if optimizer.param_groups[0].get("momentum") == 0:  # something for them to cycle
            optimizer.defaults["momentum"] = optimizer.param_groups[0]["momentum"] = 0.9
    try:
        schedulers = [BUILD[name](twins.expected)]
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            BUILD[name](twins.actual)
        return
    schedulers.append(BUILD[name](twins.actual))
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(25):
            twins.step()
            for scheduler in schedulers:
                if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                    scheduler.step(1.0 + 0.1 * (step % 4))
                else:
                    scheduler.step()
            expected, actual = (
                {k: v for k, v in o.param_groups[0].items() if k != "params"}
                for o, _ in twins.sides
            )
            assert actual == expected
            seen.add(float(actual["lr"]))
    assert len(seen) > 1
    twins.check()


def test_scheduler_before_the_optimizer_warns(rule: str) -> None:
    """torch's reminder to step the optimizer first works for ours."""
    optimizer = ours(rule)([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_resuming_a_schedule(rule: str) -> None:
    """Optimizer and scheduler saved and restored together continue where they were."""
    straight = Twins(rule, options={"lr": 0.1})
    schedulers = [BUILD["OneCycleLR, lr alone"](o) for o, _ in straight.sides]
    for _ in range(7):
        straight.step()
        for s in schedulers:
            s.step()
    resumed = Twins(rule, [p.detach() for p in straight.params], options={"lr": 0.1})
    again = [BUILD["OneCycleLR, lr alone"](o) for o, _ in resumed.sides]
    for i in range(2):
        again[i].load_state_dict(schedulers[i].state_dict())
        resumed.sides[i][0].load_state_dict(copy.deepcopy(straight.sides[i][0].state_dict()))
    for _ in range(7):
        resumed.step()
        for s in again:
            s.step()
    assert again[1].get_last_lr() == again[0].get_last_lr()
    resumed.check()


def test_copies_of_a_scheduled_optimizer_step_on_their_own(rule: str) -> None:
    """A scheduler wraps the instance's `step`; a deep copy is not tied to the original."""
    twins = Twins(rule)
    lr_scheduler.StepLR(twins.actual, 5)
    twins.step(2)
    params = [p.detach().clone() for p in twins.params]
    copied = copy.deepcopy(twins.actual)
    for p in copied.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    copied.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins.params, strict=True))
    assert not torch.equal(copied.param_groups[0]["params"][0], params[0])
