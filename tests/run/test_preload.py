"""Modules that the fork server imports once for all workers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncopt.run import launch, stop_fork_server

from . import jobs

NAME = "asyncopt_preloaded"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module that is to be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> None:
        (tmp_path / f"{NAME}.py").write_text(text)

    yield write
    sys.modules.pop(NAME, None)
    stop_fork_server()


def described(text: str) -> str:
    return f"import os\nPROCESS = os.getpid()\nTEXT = {text!r}\n"


def imported() -> list[tuple[int, int, str]]:
    return launch(jobs.where_imported, (NAME,), workers=2, preload=[NAME]).results


def test_imported_once_and_before_the_fork(write: Callable[[str], None]) -> None:
    write(described("first"))
    results = imported()
    server = results[0][1]
    assert results == [(server, server, "first")] * 2
    assert imported() == results


@pytest.mark.slow
def test_without_it_each_worker_imports(write: Callable[[str], None]) -> None:
    write(described("first"))
    imported()
    run = launch(jobs.where_imported, (NAME,), workers=2)
    processes = {process for process, _, _ in run.results}
    assert len(processes) == 2
    assert not processes & {server for _, server, _ in run.results}


@pytest.mark.slow
def test_a_changed_module_is_imported_anew(write: Callable[[str], None]) -> None:
    write(described("first"))
    importlib.import_module(NAME)  # as a script does that uses it
    assert imported()[0][2] == "first"
    write(described("the second"))
    assert imported()[0][2] == "the second"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise KeyError('oh')", "which raised KeyError: 'oh'"),
        ("import asyncopt_nowhere", "which raised ModuleNotFoundError: No module named 'asyncopt_"),
        ("raise SystemExit(3)", "which raised SystemExit: 3"),
        ("import threading\nthreading.Timer(99, print).start()", "which started a thread; import"),
        ("import torch\ntorch.ones(1 << 22).add_(1)", "which started a thread; import it in fn"),
    ],
)
def test_modules_that_are_not_fit_for_it(
    text: str, message: str, write: Callable[[str], None]
) -> None:
    write(text)
    with pytest.raises(
        ImportError, match=f"^preload: expected .* got '{NAME}', {message}"
    ) as caught:
        launch(jobs.nothing, workers=1, threads_per_worker=2, preload=["json", NAME])
    assert caught.value.name == NAME
    write(described("mended"))
    assert imported()[0][2] == "mended"


def test_a_module_that_ends_the_server(write: Callable[[str], None]) -> None:
    write("import os\nos._exit(7)")
    with pytest.raises(OSError, match=r"^starting a worker: expected .* ended with exit code 7"):
        imported()
