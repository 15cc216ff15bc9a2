"""Models of sparse data, trained by several threads at once: scikit-learn estimators.

Needs scikit-learn and scipy: ``pip install 'asyncopt[sparse]'``. Losses of your own, and
`asyncopt.sparse.atomic`, need numba: ``pip install 'asyncopt[numba]'``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from asyncopt._install import command as _command

try:
    import scipy as _scipy  # noqa: F401
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"asyncopt.sparse: expected scikit-learn and scipy, got: {error}; run: {_command('sparse')}"
    ) from error
from asyncopt.sparse.classifier import LinearClassifier
from asyncopt.sparse.custom_loss import CustomLoss, losses
from asyncopt.sparse.cuts import GraphCut
from asyncopt.sparse.data.graphs import Graph, make_graph_like
from asyncopt.sparse.data.linear import make_like
from asyncopt.sparse.data.mapped import convert_svmlight, open_csr, row_blocks, save_csr
from asyncopt.sparse.data.movielens import MovieLens, movielens
from asyncopt.sparse.data.ratings import make_ratings_like
from asyncopt.sparse.data.sets import fetch
from asyncopt.sparse.data.svmlight import load_svmlight
from asyncopt.sparse.data.text import bag_of_words
from asyncopt.sparse.factorization import MatrixFactorization
from asyncopt.sparse.regressor import LinearRegressor, custom
from asyncopt.sparse.settings import syncs

__all__ = [
    "CustomLoss",
    "Graph",
    "GraphCut",
    "LinearClassifier",
    "LinearRegressor",
    "MatrixFactorization",
    "MovieLens",
    "bag_of_words",
    "convert_svmlight",
    "custom",
    "fetch",
    "load_svmlight",
    "losses",
    "make_graph_like",
    "make_like",
    "make_ratings_like",
    "movielens",
    "open_csr",
    "row_blocks",
    "save_csr",
    "syncs",
]


if not TYPE_CHECKING:  # else every misspelt name would pass the type checkers

    def __getattr__(name: str) -> Any:
        """Parts that need numba, at their first use."""
        if name == "atomic":
            return importlib.import_module("asyncopt.sparse.atomic")
        raise AttributeError(f"module 'asyncopt.sparse' has no attribute {name!r}")
