"""Parametrization shared by the optimizer tests."""

from collections.abc import Iterator

import pytest
import torch

from .twins import RTOL, RULES, SYNCS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`rule`, `sync` and `dtype` take every value that the build lists."""
    values = {"rule": RULES, "sync": SYNCS, "dtype": tuple(RTOL)}
    marked = [m.args[0] for m in metafunc.definition.iter_markers("parametrize")]
    taken = {name for names in marked for name in ([names] if isinstance(names, str) else names)}
    for name, choices in values.items():
        if name in metafunc.fixturenames and name not in taken:
            metafunc.parametrize(name, choices, ids=lambda v: str(v).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Global random state is fixed per test; the default dtype is put back."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
