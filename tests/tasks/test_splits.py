"""Splits, beside scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, StratifiedKFold
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from asyncopt.tasks.splits import find_targets, make_splits

EXAMPLES = 53
TARGETS = np.arange(EXAMPLES) % 3
GROUPS = np.arange(EXAMPLES) // 4


def assert_equal(splits: Any, reference: Any) -> None:
    pairs = list(reference)
    assert len(splits) == len(pairs)
    for number, (train, test) in enumerate(pairs):
        np.testing.assert_array_equal(splits[number].train.numpy(), train)
        np.testing.assert_array_equal(splits[number].test.numpy(), test)


@pytest.mark.parametrize("folds", [2, 5, EXAMPLES])
@pytest.mark.parametrize("seed", [0, 7])
def test_ours_are_those_of_scikit_learn(folds: int, seed: int) -> None:
    reference = KFold(folds, shuffle=True, random_state=seed).split(TARGETS)
    assert_equal(make_splits(folds, EXAMPLES, None, None, seed), reference)


@pytest.mark.parametrize(
    ("splitter", "groups"),
    [
        (StratifiedKFold(3, shuffle=True, random_state=1), None),
        (GroupKFold(4), GROUPS),
        (LeaveOneOut(), None),
    ],
    ids=lambda each: type(each).__name__,
)
def test_splitters(splitter: Any, groups: Any) -> None:
    reference = splitter.split(np.zeros(EXAMPLES), TARGETS, groups)
    assert_equal(make_splits(splitter, EXAMPLES, TARGETS, groups, 0), reference)


class Labelled(Dataset[Any]):
    def __init__(self, targets: Any) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)


def test_targets_of_datasets() -> None:
    whole = Labelled(TARGETS.tolist())
    tensors = TensorDataset(torch.zeros(EXAMPLES), torch.from_numpy(TARGETS))
    some = [40, 3, 3, -1]
    for data, expected in (
        ((np.zeros(EXAMPLES), TARGETS), TARGETS),
        (whole, TARGETS),
        (Subset(tensors, some), TARGETS[some]),
        (Subset(Subset(whole, range(5, 50)), range(0, 40, 3)), TARGETS[5:50][:40:3]),
        (ConcatDataset([tensors, Subset(whole, some)]), [*TARGETS, *TARGETS[some]]),
    ):
        np.testing.assert_array_equal(find_targets(data), expected)
    assert find_targets(ConcatDataset([whole, Subset(Dataset(), [1])])) is None


def test_a_splitter_that_misses_the_targets() -> None:
    with pytest.raises(ValueError, match=r"^folds: .* no targets, .* got StratifiedKFold \(.*\);"):
        make_splits(StratifiedKFold(3), EXAMPLES, None, None, 0)
    with pytest.raises(ValueError, match=r"^data\.targets: expected 53 of them, .* got 52"):
        make_splits(StratifiedKFold(3), EXAMPLES, TARGETS[1:], None, 0)


def test_pairs_of_indices() -> None:
    pairs = [([0, 1, 2], [3]), (np.array([3, 2]), (0, 1))]
    assert_equal(make_splits(pairs, EXAMPLES, None, None, 0), pairs)


def test_fingerprints_tell_splits_apart() -> None:
    several = [
        make_splits(folds, EXAMPLES, None, None, seed).fingerprint()
        for folds, seed in ((5, 0), (5, 1), (4, 0))
    ]
    several.append(make_splits([([0, 1], [2])], 3, None, None, 0).fingerprint())
    several.append(make_splits([([0], [1, 2])], 3, None, None, 0).fingerprint())
    assert len(set(several)) == 5
    assert several[0] == make_splits(5, EXAMPLES, None, None, 0).fingerprint()


@pytest.mark.parametrize(
    ("folds", "groups", "message"),
    [
        (1, None, "folds: expected 2 to 53, the number of examples, got 1"),
        (54, None, "folds: expected 2 to 53, the number of examples, got 54"),
        (5, GROUPS, "groups: expected a splitter that looks at them"),
        (GroupKFold(3), GROUPS[:9], "groups: expected 53 of them, one per example, got 9"),
        (2.5, None, "folds: expected a number, a splitter or pairs of indices, got float"),
        ("5", None, "folds: expected a number, a splitter or pairs of indices, got str"),
        ([], None, "folds: expected at least one split, got none"),
        ([3], None, r"folds\[0\]: expected a pair of index arrays"),
        ([([0], [53])], None, r"folds\[0\]\[1\]: expected indices from 0 to 52, got 53 to 53"),
        ([([-1, 2], [1])], None, r"folds\[0\]\[0\]: expected indices from 0 to 52, got -1 to 2"),
        ([([0], [])], None, r"folds\[0\]\[1\]: expected a vector of integers"),
        ([([True, False], [1])], None, r"folds\[0\]\[0\]: expected a vector of integers"),
    ],
)
def test_what_is_no_split(folds: Any, groups: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make_splits(folds, EXAMPLES, TARGETS, groups, 0)
