"""Studies: comparisons of syncs, effects of staleness, simulations, and a look at the machine.

Each function runs one study and returns its result, which prints as its tables, shows itself in
notebooks, and has ``rows``, ``findings``, ``to_frame()`` and ``report(path)``. The ``asyncopt``
command has a command for each. They need the extra ``asyncopt[cli]``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncopt.studies.delayed.study import staleness
    from asyncopt.studies.dense.study import compare
    from asyncopt.studies.diagnosis.study import doctor
    from asyncopt.studies.errors import OptionError, StudyError
    from asyncopt.studies.result import Result
    from asyncopt.studies.simulation.study import simulate
    from asyncopt.studies.sparse.study import compare_sparse

__all__ = [
    "OptionError",
    "Result",
    "StudyError",
    "compare",
    "compare_sparse",
    "doctor",
    "simulate",
    "staleness",
]

_HOMES = {
    "OptionError": "errors",
    "Result": "result",
    "StudyError": "errors",
    "compare": "dense.study",
    "compare_sparse": "sparse.study",
    "doctor": "diagnosis.study",
    "simulate": "simulation.study",
    "staleness": "delayed.study",
}

if not TYPE_CHECKING:  # else every misspelt name would pass the type checkers

    def __getattr__(name: str) -> Any:
        """A function at its first use: workers import this package, and need none of them."""
        if name in _HOMES:
            return getattr(importlib.import_module(f"asyncopt.studies.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'asyncopt.studies' has no attribute {name!r}")
