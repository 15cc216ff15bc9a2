"""Scores of a fold's model on the examples held out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Metric", "accuracy", "score"]

Metric = Callable[[Tensor, Tensor], Any]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose class has the highest output.

    Args:
        outputs: scores, shape (examples, classes).
        targets: classes, integers of shape (examples,).
    """
    return float((outputs.argmax(dim=1) == targets).float().mean())


def score(
    model: nn.Module,
    batches: Iterable[Any],
    examples: int,
    loss: Metric,
    metrics: Mapping[str, Metric],
) -> dict[str, float]:
    """Loss and metrics, each by one call with the outputs and targets of all examples.

    So losses that are not means over examples, such as weighted means, are correct too.

    Args:
        model: the model; it is put in evaluation mode.
        batches: inputs and targets of each.
        examples: number of them in all batches.
        loss: called with outputs and targets.
        metrics: the same, by name.

    Raises:
        TypeError, ValueError: outputs or targets of several batches cannot be joined.
    """
    outputs, answers = [], []
    model.eval()
    # Not in inference mode: losses and modules may keep tensors that are made here for training.
    with torch.no_grad():
        for *inputs, targets in batches:
            outputs.append(model(*inputs))
            answers.append(targets)
        output, targets = _join("outputs", outputs, examples), _join("targets", answers, examples)
        del outputs, answers
        named = {"loss": loss} | dict(metrics)
        return {name: float(function(output, targets)) for name, function in named.items()}


def _join(name: str, parts: Sequence[Any], examples: int) -> Any:
    """Outputs or targets of batches as those of one batch."""
    first = parts[0]
    if len(parts) == 1 or first is None:
        return first
    if isinstance(first, Tensor):
        if first.ndim == 0 or sum(part.shape[0] for part in parts) != examples:
            raise ValueError(
                f"{name}: expected a batch's examples along dimension 0, as those of all batches "
                f"are scored together, got shape {tuple(first.shape)}; let the model return one "
                "output per example"
            )
        return torch.cat(list(parts))
    if isinstance(first, MutableMapping):
        joined = copy.copy(first)
        for key in first:
            joined[key] = _join(f"{name}[{key!r}]", [part[key] for part in parts], examples)
        return joined
    if isinstance(first, list | tuple):
        columns = zip(*parts, strict=True)
        items = [_join(f"{name}[{i}]", column, examples) for i, column in enumerate(columns)]
        return first._make(items) if hasattr(first, "_make") else type(first)(items)
    raise TypeError(
        f"{name}: expected tensors, or tuples, lists and dicts of tensors, got "
        f"{type(first).__name__}; let the model return tensors"
    )
