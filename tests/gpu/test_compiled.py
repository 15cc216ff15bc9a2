"""Machine code of the kernels: 16-byte loads and stores, and no local memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import BUILD, ROOT

SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
OBJECTS = BUILD / "CMakeFiles" / "asyncopt_cuda_kernels.dir" / "csrc" / "cuda"


def functions(text: str, start: str) -> Iterator[tuple[str, str]]:
    """Each function of a disassembly: its mangled name and its text."""
    for part in re.split(start, text)[1:]:
        name = re.match(r"\S+", part)
        assert name is not None
        yield name[0], part


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_machine_code(source: Path) -> None:
    """The build compiles for sm_80 and sm_90; registers that spill stop it, under make test."""
    compiled = OBJECTS / f"{source.name}.o"
    if not compiled.exists():
        pytest.skip("the build tree has no CUDA kernels: nvcc was not found")
    if shutil.which("cuobjdump") is None or shutil.which("nvdisasm") is None:
        pytest.skip("needs cuobjdump and nvdisasm")
    listing = subprocess.run(
        ["cuobjdump", "-sass", str(compiled)], capture_output=True, text=True, check=True
    ).stdout
    assert {"sm_80", "sm_90"} <= set(re.findall(r"arch = (sm_\d+)", listing))
    seen = 0
    for name, code in functions(listing, r"Function : "):
        assert not re.search(r"\b(LDL|STL)\b", code), f"{name} uses local memory"
        if "hogwild" in name:
            seen += 1
            assert "LDG.E.128" in code, name
            assert "STG.E.128" in code, name
    assert seen >= 2 * 11


def test_portable_code() -> None:
    """The same checks on PTX, which needs nvcc alone."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    flags = ["-std=c++20", "-fmad=false", "-diag-suppress=186", "-arch=compute_80", f"-I{ROOT}/src"]
    source = ROOT / "csrc" / "cuda" / "float32.cu"
    ptx = subprocess.run(
        ["nvcc", *flags, "-ptx", "-o", "-", str(source)], capture_output=True, text=True, check=True
    ).stdout
    seen = 0
    for name, code in functions(ptx, r"\.entry "):
        assert ".local" not in code, f"{name} uses local memory"
        assert "fma.rn.f32" not in code, f"{name} rounds otherwise than the host"
        if "hogwild" in name:
            seen += 1
            assert re.search(r"ld\.global\.v4\.[fub]32", code), name
            assert re.search(r"st\.global\.v4\.[fub]32", code), name
    assert seen == 11
