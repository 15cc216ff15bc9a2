"""Moving a storage's bytes into a segment: every view of it follows, and nothing else changes."""

from __future__ import annotations

import gc
import os
import weakref

import numpy as np
import pytest
import torch

from asyncopt.store.memory import map_new_memfd
from asyncopt.store.moving import can_move, move

OFFSET = 128


def moved(tensor: torch.Tensor) -> torch.Tensor:
    """Move a tensor; the segment."""
    memory = map_new_memfd(OFFSET + tensor.untyped_storage().nbytes())
    move(tensor.untyped_storage(), memory, OFFSET)
    return memory


def memfds() -> int:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("/memfd:" in os.path.realpath(link) for link in links)


def test_this_torch_keeps_its_data_pointers_where_they_are_expected() -> None:
    assert can_move()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex128, torch.bfloat16])
def test_values_shapes_and_every_view_stay(dtype: torch.dtype) -> None:
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    expected = whole.clone()
    row, transposed = whole[1], whole.t()
    flat: torch.Tensor = whole.view(-1).detach()
    memory = moved(whole)
    assert torch.equal(whole, expected)
    assert torch.equal(memory[OFFSET:].view(dtype).view(4, 6), expected)
    memory[OFFSET:].view(dtype)[7] = 0
    assert row[1] == transposed[1, 1] == flat[7] == whole[1, 1] == 0
    row[2] = 1
    assert memory[OFFSET:].view(dtype)[8] == 1
    assert all(each.is_shared() for each in (whole, row, transposed, flat))


def test_parameters_keep_their_gradients_and_graphs() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    loss = (weight**2).sum()
    weight.grad = torch.full((3,), 5.0)
    moved(weight.data)
    loss.backward()
    assert weight.grad.tolist() == [7.0] * 3
    assert weight.is_leaf
    assert weight.is_shared()
    assert not weight.grad.is_shared()


def test_a_moved_storage_cannot_be_resized() -> None:
    """Its bytes would leave the segment."""
    tensor = torch.ones(4)
    moved(tensor)
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.resize_(100)


def test_the_old_bytes_are_freed_and_the_new_ones_go_with_the_last_view() -> None:
    before = memfds()
    buffer = np.ones(10, dtype=np.float32)
    gone = weakref.ref(buffer)
    tensor = torch.from_numpy(buffer)
    view = tensor[2:]
    del buffer
    moved(tensor)
    gc.collect()
    assert gone() is None
    assert memfds() == before + 1
    del tensor
    assert view.tolist() == [1.0] * 8
    del view
    assert memfds() == before


def test_numpy_arrays_of_the_tensor_stay_valid() -> None:
    """They do not follow the move, but their bytes are not freed."""
    tensor = torch.full((1 << 20,), 3.0)
    array = tensor.numpy()
    moved(tensor)
    others = [torch.zeros(1 << 20) for _ in range(4)]  # take what was freed
    assert (array == 3).all()
    assert sum(other.sum() for other in others) == 0
    tensor.fill_(4)
    assert (array == 3).all()


def test_copies_are_private() -> None:
    tensor = torch.ones(5)
    moved(tensor)
    for copy in (tensor.clone(), tensor.detach().clone(), torch.stack([tensor])):
        assert not copy.is_shared()
