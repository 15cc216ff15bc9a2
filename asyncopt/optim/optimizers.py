"""The optimizers: torch.optim's namesakes over the engine, in order of increasing complexity.

Signatures, defaults and hyperparameters are those of ``torch.optim``; ``foreach`` and ``fused``
choose between torch's implementations and change nothing here. What the other arguments mean is
said in :class:`asyncopt.optim.Optimizer`.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from asyncopt.optim.base import Optimizer
from asyncopt.optim.options import Options

__all__ = ["ASGD", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "RMSprop", "rules"]

Params = Any  # torch's ParamsT: tensors, groups of them, or (name, tensor) pairs


class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum.

    Source: Sutskever et al., ICML 2013, in the variant of ``torch.optim.SGD``.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            sync=sync,
            **options,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        return "sgd_momentum" if group["momentum"] != 0 else "sgd"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )

    def _initial_scalar(self, name: str, group: dict[str, Any], found: dict[str, Any]) -> float:
        # torch keeps no step: where there is a buffer, the first step has been.
        return float(found.get("momentum_buffer") is not None)

    def _saved_state(self, saved: dict[str, Any]) -> dict[Any, Any]:
        """State as in torch: no step is kept, and no momentum buffer before the first one."""
        kept = {}
        for index, each in super()._saved_state(saved).items():
            shown = each
            if isinstance(index, int) and isinstance(each, dict):
                hidden = ("step", "momentum_buffer") if each.get("step") == 0 else ("step",)
                shown = {name: value for name, value in each.items() if name not in hidden}
            if shown != {} or saved["state"][index] == {}:  # a user has looked it up
                kept[index] = shown
        return kept


class Adagrad(Optimizer, torch.optim.Adagrad):  # type: ignore[misc]  # its share_memory
    """Adagrad.

    Source: Duchi, Hazan and Singer, JMLR 2011.

    Args:
        rowwise: keep one sum for each row (first dimension), of the means of its squared gradients
            (FBGEMM's row-wise Adagrad, arXiv 2104.05158): almost no state for an embedding table.
            ``state["sum"]`` then has the size 1 in all other dimensions.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        rowwise: bool = False,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        self.rowwise = rowwise
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
            sync=sync,
            **options,
        )
        self.state.clear()  # torch's own sums: ours may be one a row, and lie on large pages
        self.stepper.make_plan()

    def _rule(self, group: dict[str, Any]) -> str:
        return "adagrad_rowwise" if self.rowwise else "adagrad"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            group["lr_decay"],
            group["weight_decay"],
            group["eps"],
            group["maximize"],
        )

    def _initial_slot(self, name: str, group: dict[str, Any]) -> float:
        return float(self.defaults["initial_accumulator_value"])  # as torch: not the group's


class RMSprop(Optimizer, torch.optim.RMSprop):
    """RMSprop, plain or centered, with or without momentum.

    Source: Tieleman and Hinton, Coursera 2012, lecture 6.5; ``centered``: Graves, arXiv 1308.0850.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            sync=sync,
            **options,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        centered = "_centered" if group["centered"] else ""
        momentum = "_momentum" if group["momentum"] > 0 else ""
        return f"rmsprop{centered}{momentum}"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["maximize"],
        )


class Adadelta(Optimizer, torch.optim.Adadelta):
    """Adadelta.

    Source: Zeiler, arXiv 1212.5701.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            capturable=capturable,
            maximize=maximize,
            differentiable=differentiable,
            sync=sync,
            **options,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        return "adadelta"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["lr"], group["rho"], group["eps"], group["weight_decay"], group["maximize"])


class Adam(Optimizer, torch.optim.Adam):
    """Adam.

    Source: Kingma and Ba, arXiv 1412.6980; ``amsgrad``: Reddi et al., ICLR 2018.

    Args:
        rowwise: keep one second moment for each row (first dimension), of the mean of its squared
            gradients (FBGEMM's partially row-wise Adam): half the state. Not with ``amsgrad``.
            ``state["exp_avg_sq"]`` then has the size 1 in all other dimensions.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        rowwise: bool = False,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        self.rowwise = rowwise
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
            sync=sync,
            **options,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        if self.rowwise and group["amsgrad"]:
            raise ValueError("amsgrad: expected False with rowwise=True, got True")
        if self.rowwise:
            return "adam_rowwise"
        return "adam_amsgrad" if group["amsgrad"] else "adam"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
        )


class AdamW(Adam, torch.optim.AdamW):
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter, arXiv 1711.05101. ``rowwise`` is that of :class:`Adam`.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        rowwise: bool = False,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        self.rowwise = rowwise
        Optimizer.__init__(
            self,
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            sync=sync,
            **options,
        )


class ASGD(Optimizer, torch.optim.ASGD):
    """Averaged stochastic gradient descent; ``state[p]['ax']`` holds the average.

    Source: Polyak and Juditsky, SIAM Journal on Control and Optimization 1992.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        sync: str = "hogwild",
        **options: Unpack[Options],
    ) -> None:
        if options.get("staleness_lr") is not None:  # eta is state, of all workers
            raise ValueError("staleness_lr: expected None for ASGD; use SGD with an AveragedModel")
        # torch does not check it: the decay would become growth.
        if hasattr(lambd, "__float__") and not lambd >= 0:
            raise ValueError(f"lambd: expected a number >= 0, got {lambd!r}")
        super().__init__(
            params,
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
            sync=sync,
            **options,
        )

    def _rule(self, group: dict[str, Any]) -> str:
        return "asgd"

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (
            group["lr"],
            group["lambd"],
            group["alpha"],
            group["t0"],
            group["weight_decay"],
            group["maximize"],
        )

    def _initial_scalar(self, name: str, group: dict[str, Any], found: dict[str, Any]) -> float:
        return {"step": 0.0, "eta": float(group["lr"]), "mu": 1.0}[name]


_RULES = (SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, ASGD)


def rules() -> tuple[str, ...]:
    """Names of the optimizers, each a class of this package."""
    return tuple(rule.__name__ for rule in _RULES)
