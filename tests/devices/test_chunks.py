"""Division of parameters into chunks, and their offsets in them."""

from __future__ import annotations

import pytest
import torch

from asyncopt.devices import chunks

MIB = 1 << 20


@pytest.fixture(autouse=True)
def usual_chunks(monkeypatch: pytest.MonkeyPatch, small_chunks: None) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * MIB)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([4, 100, 4], [(2, 1, 0)]),  # too little to be cut
        ([MIB] * 100, [(i, i - 1, i - 2, i - 3) for i in range(99, 0, -4)]),
        ([MIB // 2] * 8, [(i,) for i in range(7, -1, -1)]),  # an eighth of the model each
        ([10, 9 * MIB, 20, 9 * MIB], [(3,), (2,), (1,), (0,)]),
        ([0, 0], [(1, 0)]),
        ([], []),
    ],
)
def test_cut(sizes: list[int], expected: list[tuple[int, ...]]) -> None:
    found = chunks.cut(reversed(range(len(sizes))), sizes)
    assert [chunk.params for chunk in found] == expected
    for chunk in found:
        ends = [o + sizes[i] for o, i in zip(chunk.offsets, chunk.params, strict=True)]
        assert all(offset % 64 == 0 for offset in chunk.offsets)
        starts = [*chunk.offsets[1:], chunk.nbytes]
        assert all(end <= start < end + 64 for end, start in zip(ends, starts, strict=True))


def test_views() -> None:
    """Of several dtypes and orders in memory, side by side."""
    like = [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(5, dtype=torch.bfloat16),
        torch.empty(0, 3),
        torch.tensor(7.0, dtype=torch.float64),
    ]
    (chunk,) = chunks.cut([2, 0, 3, 1], [t.numel() * t.element_size() for t in like])
    buffer = torch.zeros(chunk.nbytes, dtype=torch.uint8)
    found = chunks.views(buffer, chunk, like)
    for number, view in zip(chunk.params, found, strict=True):
        assert (view.dtype, view.shape, view.stride()) == (
            like[number].dtype,
            like[number].shape,
            like[number].stride(),
        )
        view.copy_(like[number])
    for number, view in zip(chunk.params, found, strict=True):
        assert torch.equal(view, like[number])
        assert view.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
