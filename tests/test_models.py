"""The protocols as Spin models: each verifies, and without any one barrier or repair it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(
        shutil.which("spin") is None, reason="spin is not installed: apt install spin"
    ),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt install gcc"),
]

FOLDER = Path(__file__).with_name("models")
MODELS = sorted(path.stem for path in FOLDER.glob("*.pml"))
TIMEOUT = 120  # s for one program
DEPTH = 100_000  # steps; the longest run of a model has some thousands


def text_of(model: str) -> str:
    return (FOLDER / f"{model}.pml").read_text()


def instances(model: str) -> list[list[str]]:
    """The preprocessor's arguments for each size in which a model is checked."""
    line = re.search(r"^// Instances: (.*)$", text_of(model), re.MULTILINE)
    assert line, f"{model}.pml does not list its instances"
    return [quoted.split() for quoted in re.findall(r'"(.*?)"', line[1])]


def switches(model: str) -> list[str]:
    """What can be removed from a model."""
    return sorted(set(re.findall(r"\bWITHOUT_\w+", text_of(model))))


def output_of(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def search(model: str, defines: Sequence[str], folder: Path) -> str | None:
    """Search all states of an instance; returns the first error and the last steps to it."""
    source = FOLDER / f"{model}.pml"
    output_of(["spin", *defines, "-a", source], folder)
    # Optimized, the search takes less time than the optimization.
    output_of(["gcc", "-O0", "-w", "-DSAFETY", "-o", "pan", "pan.c"], folder)
    report = output_of(["./pan", f"-m{DEPTH}", "-w20"], folder)
    if "errors: 0" in report:
        assert not re.search("Search not completed|search depth too small", report), report
        return None
    wrong = re.search(
        r"^pan:1: (assertion violated .*|invalid end state .*)$", report, re.MULTILINE
    )
    assert wrong, report
    trail = folder / f"{model}.pml.trail"
    steps = output_of(["spin", *defines, "-p", "-k", trail, source], folder).splitlines()
    return "\n".join([f"{model} {' '.join(defines)}: {wrong[1]}", *steps[-60:]])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_model_verifies(model: str, tmp_path: Path) -> None:
    for instance in instances(model):
        wrong = search(model, instance, tmp_path)
        assert wrong is None, wrong


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "switch"), [(model, switch) for model in MODELS for switch in switches(model)]
)
def test_every_removal_breaks_a_model(model: str, switch: str, tmp_path: Path) -> None:
    """Each removal fails in at least one instance."""
    assert any(search(model, [*instance, f"-D{switch}"], tmp_path) for instance in instances(model))


@pytest.mark.parametrize("model", MODELS)
def test_a_model_says_what_it_models(model: str) -> None:
    opening = text_of(model).partition("\n\n")[0]
    explained = re.findall(r"^//   (WITHOUT_\w+) ", opening, re.MULTILINE)
    assert sorted(explained) == switches(model)
    modelled = re.findall(r"\b(?:src|asyncopt)/[\w/]+\.\w+", opening)
    assert modelled
    for path in modelled:
        assert (FOLDER.parents[1] / path).is_file(), path
