"""Sources of batches: every kind of data against the same data as tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from asyncopt.run import Worker

N = 23
X = torch.arange(N * 6.0).reshape(N, 3, 2)
Y = torch.arange(N)


def batches(data: Any, *args: Any, **options: Any) -> list[Any]:
    return list(Worker(0, 1, lambda timeout: None).batches(data, *args, **options))


def same(got: Any, expected: Any) -> bool:
    """Whether two lists of batches, each a tensor or a sequence of tensors, are equal."""
    if isinstance(expected, Tensor):
        return (
            isinstance(got, Tensor) and got.dtype == expected.dtype and torch.equal(got, expected)
        )
    return len(got) == len(expected) and all(map(same, got, expected))


class Pairs(Dataset[tuple[np.ndarray[Any, Any], int]]):
    """Map-style, of numpy arrays and ints, which collation makes tensors of."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        return X[index].numpy(), int(Y[index])


class Fetching(Pairs):
    """Reads several at once."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("expected __getitems__ to be used")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [super(Fetching, self).__getitem__(index) for index in indices]


SHUFFLED = pytest.mark.parametrize("shuffle", [True, False])


@SHUFFLED
def test_numpy_arrays_give_tensors(shuffle: bool) -> None:
    expected = batches((X, Y), 4, shuffle=shuffle)
    got = batches((X.numpy(), Y.numpy()), 4, shuffle=shuffle)
    assert all(isinstance(batch, tuple) for batch in got)
    assert same(got, expected)
    assert same(batches(X.numpy(), 4, shuffle=shuffle), [x for x, _ in expected])
    strided = np.asfortranarray(X.numpy())[::-1]
    assert same(batches(strided, 4, shuffle=shuffle), batches(X.flip(0), 4, shuffle=shuffle))
    records = np.zeros(N, [("flag", "u1"), ("x", "f4")])
    records["x"] = np.arange(N)
    expected = batches(torch.arange(N, dtype=torch.float32), 4, shuffle=shuffle)
    assert same(batches(records["x"], 4, shuffle=shuffle), expected)


@SHUFFLED
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">i2", "u1", "f2", "?", "c8"])
def test_numpy_dtypes(shuffle: bool, dtype: str) -> None:
    array = np.arange(N).astype(dtype)
    expected = torch.from_numpy(array.astype(np.dtype(dtype).newbyteorder("=")))
    assert same(batches(array, 4, shuffle=shuffle), batches(expected, 4, shuffle=shuffle))


def test_views_are_given_of_writable_arrays_only() -> None:
    array = np.zeros((4, 2))
    batches(array, 4, shuffle=False)[0].fill_(1)
    assert array.sum() == 8
    array.flags.writeable = False
    batches(array, 4, shuffle=False)[0].fill_(2)  # torch would write to it, mapped or not
    assert array.sum() == 8


@SHUFFLED
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_maps(tmp_path: Path, mode: Any, shuffle: bool) -> None:
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    assert same(batches(mapped, 4, shuffle=shuffle), batches(X, 4, shuffle=shuffle))
    got = batches((mapped[3:], Y.numpy()[3:]), 4, shuffle=shuffle)
    assert same(got, batches((X[3:], Y[3:]), 4, shuffle=shuffle))


@SHUFFLED
@pytest.mark.parametrize("dataset", [Pairs(), Fetching(), TensorDataset(X, Y)])
def test_datasets_are_collated_as_torch_does(dataset: Dataset[Any], shuffle: bool) -> None:
    got = batches(dataset, 4, shuffle=shuffle)
    order = [y for _, part in batches((X, Y), 4, shuffle=shuffle) for y in part.tolist()]
    loader = DataLoader(Subset(dataset, order), batch_size=4)
    assert same(got, list(loader))
    assert [type(batch) for batch in got] == [type(batch) for batch in loader]


class Pair(NamedTuple):
    x: Any
    y: Any


@SHUFFLED
def test_named_tuples_stay_what_they_are(shuffle: bool) -> None:
    expected = batches((X, Y), 4, shuffle=shuffle)
    for data in (Pair(X, Y), Pair(X.numpy(), Y.numpy())):
        got = batches(data, 4, shuffle=shuffle)
        assert all(type(batch) is Pair for batch in got)
        assert same(got, expected)


RAGGED = [torch.arange(10.0 * i, 10 * i + 2 * (i % 4)).reshape(-1, 2) for i in range(N)]


def ragged_tensors() -> dict[str, Tensor]:
    dense = torch.arange(N * 5.0).reshape(N, 5) % 3 % 2  # with empty rows and columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what torch calls beta
        return {
            "coo": dense.to_sparse(),
            "csr": dense.to_sparse_csr(),
            "csr, short": torch.sparse_csr_tensor(
                torch.arange(N + 1, dtype=torch.int32), Y.int() % 5, Y * 0.5, (N, 5)
            ),
            "jagged": torch.nested.as_nested_tensor(RAGGED, layout=torch.jagged),
        }


def rows(tensor: Tensor) -> list[Any]:
    return list((tensor if tensor.is_nested else tensor.to_dense()).unbind())


@SHUFFLED
@pytest.mark.parametrize("kind", ragged_tensors())
def test_sparse_and_jagged_tensors(kind: str, shuffle: bool) -> None:
    tensor = ragged_tensors()[kind]
    examples = rows(tensor)
    expected = [[examples[i] for i in part.tolist()] for part in batches(Y, 4, shuffle=shuffle)]
    for data in (tensor, (tensor,), TensorDataset(tensor)):
        got = batches(data, 4, shuffle=shuffle)
        got = [batch if data is tensor else batch[0] for batch in got]
        assert {(batch.layout, batch.dtype) for batch in got} == {(tensor.layout, tensor.dtype)}
        assert same([rows(batch) for batch in got], expected)


def test_layouts_without_rows_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        csc = torch.eye(3).to_sparse_csc()
        nested = torch.nested.as_nested_tensor(RAGGED)
        jagged = torch.nested.as_nested_tensor(RAGGED, layout=torch.jagged)
    expected = "expected a dense, CSR, COO or jagged tensor, got"
    refused: list[tuple[Any, str]] = [
        (csc, rf"data: {expected} one of layout torch\.sparse_csc; call \.to_sparse_csr\(\)"),
        ((Y[:3], csc), rf"data\[1\]: {expected} one of layout"),
        (TensorDataset(csc), rf"data\.tensors\[0\]: {expected} one of layout"),
        (
            nested,
            rf"data: {expected} a nested one of layout torch\.strided; .*layout=torch\.jagged",
        ),
        (jagged.transpose(1, 2), rf"data: {expected} a jagged one with gaps or transposed; call"),
    ]
    for data, message in refused:
        with pytest.raises(TypeError, match=f"^{message}"):
            batches(data, 2)


def pack(examples: list[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(x).sum() + y for x, y in examples])


@pytest.mark.parametrize("dataset", [Pairs(), TensorDataset(X, Y)])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("collate", [None, pack])
def test_data_loaders_are_taken_over(dataset: Dataset[Any], drop_last: bool, collate: Any) -> None:
    options: dict[str, Any] = {"batch_size": 4, "drop_last": drop_last, "collate_fn": collate}
    loader = DataLoader(dataset, **options)
    assert same(batches(loader, epochs=2), [*loader, *loader])
    got = batches(DataLoader(dataset, shuffle=True, **options), seed=3)
    indices = batches(Y, 4, seed=3, drop_last=drop_last)
    expected = [loader.collate_fn([dataset[i] for i in part.tolist()]) for part in indices]
    assert same(got, expected)


def test_shards_of_a_data_loader() -> None:
    loader = DataLoader(Pairs(), batch_size=4)
    for rank in range(2):
        worker = Worker(rank, 2, lambda timeout: None)
        assert same(list(worker.batches(loader)), list(loader)[rank::2])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class Endless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


PAIRS = Pairs()


@pytest.mark.parametrize(
    ("data", "options", "kind", "message"),
    [
        ([X], {}, TypeError, r"data: expected a tensor or a tuple .* got list; .* Dataset"),
        ((X.numpy(), Y), {}, TypeError, r"data\[1\]: expected a numpy array, as data\[0\] is, .*"),
        (np.array(1.0), {}, ValueError, r"data: expected examples .* got a scalar array"),
        ((X.numpy(), Y.numpy()[1:]), {}, ValueError, r"data\[1\]: expected 23 examples, .* got 22"),
        (np.array(["a"]), {}, TypeError, r"data: expected an array of a dtype .*, got <U1"),
        (np.array([None]), {}, TypeError, r"data: expected an array of a dtype .*, got object"),
        (Stream(), {}, TypeError, r"data: .* got Stream, an IterableDataset; use a map-style .*"),
        (Endless(), {}, TypeError, r"data: expected a dataset with a length, got Endless; .*"),
        (PAIRS, {"batch_size": 0}, ValueError, r"batch_size: expected an integer >= 1, got 0"),
    ],
)
def test_bad_data(data: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        batches(data, **{"batch_size": 2, **options})


@pytest.mark.parametrize(
    ("loader", "options", "kind", "message"),
    [
        (
            DataLoader(Stream()),
            {},
            TypeError,
            r"data\.dataset: .* got Stream, an IterableDataset.*",
        ),
        (
            DataLoader(PAIRS),
            {"batch_size": 3},
            ValueError,
            r"batch_size: expected nothing beside a DataLoader, which brings its own, got 3",
        ),
        (DataLoader(PAIRS), {"shuffle": False}, ValueError, r"shuffle: expected nothing .*"),
        (DataLoader(PAIRS), {"drop_last": True}, ValueError, r"drop_last: expected nothing .*"),
    ],
)
def test_bad_data_loaders(
    loader: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        batches(loader, **options)
