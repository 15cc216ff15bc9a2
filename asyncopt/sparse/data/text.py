"""Words that are on every machine: the documentation in installed Python packages."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["bag_of_words"]

LEAST = 40
"""Characters of a docstring that says something."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def bag_of_words(
    packages: Sequence[str] = ("scipy", "sklearn"),
) -> tuple[Any, npt.NDArray[np.int64]]:
    """The docstrings of installed packages as rows of TF-IDF; which is it of?

    The same for the same installation; nothing is imported. The default makes about 7,000 rows of
    27,000 words in five seconds.

    Args:
        packages: two or more that can be imported, with source.

    Returns:
        X, float32 in CSR format, rows of norm 1; and the place of each row's package in
        ``packages``, int64 of shape (rows,).

    Raises:
        ValueError: there are not two packages with docstrings.
    """
    names = list(packages)
    if isinstance(packages, str) or len(set(names)) < 2:
        raise ValueError(f"packages: expected two names or more, got {packages!r}")
    texts, labels = [], []
    for label, name in enumerate(names):
        found = [text for path in _sources(name) for text in _docstrings(path)]
        if not found:
            raise ValueError(f"packages: expected some with docstrings, got {name!r} without any")
        texts += found
        labels += [label] * len(found)
    X = TfidfVectorizer(dtype=np.float32).fit_transform(texts)
    return X, np.array(labels, np.int64)


def _sources(package: str) -> list[Path]:
    """Files of a package but for its tests, in an order of their own."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise ValueError(f"packages: expected packages that are installed, got {package!r}")
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [
        path
        for folder in spec.submodule_search_locations
        for path in sorted(Path(folder).rglob("*.py"))
        if not {"test", "tests"} & set(path.relative_to(folder).parts)
    ]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # templates, and files for another Python
        return
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            text = ast.get_docstring(node)
            if text is not None and len(text) >= LEAST:
                yield text
