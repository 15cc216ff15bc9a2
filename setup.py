"""Builds asyncopt._core with CMake; all else about the package is in pyproject.toml.

Where CMake finds nvcc, it builds asyncopt._cuda, too, and goes without if that fails;
CMAKE_ARGS=-DASYNCOPT_CUDA=ON insists on it, =OFF leaves it out. The CMake build tree,
build/cmake-<python>, outlives the build, so that a second `pip install` compiles only what changed.
The environment variable CMAKE_ARGS adds arguments to the configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CUDA_IS_ON = re.compile(r"^ASYNCOPT_CUDA:\w+=ON$", re.MULTILINE)  # in CMake's cache


def find_cmake() -> str:
    """Return the path of the cmake that pip installed for this build, else of the system's."""
    try:
        import cmake
    except ImportError:
        found = shutil.which("cmake")
        if found is None:
            raise SystemExit(
                "cmake: expected version 3.25 or newer, got none; run: pip install cmake ninja"
            ) from None
        return found
    return str(Path(cmake.CMAKE_BIN_DIR) / "cmake")


def find_ninja() -> str | None:
    """Return the path of ninja, also when this Python's environment is not activated."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which("ninja", path=os.pathsep.join([path, str(Path(sys.executable).parent)]))


class CMakeBuild(build_ext):
    """Builds an extension by configuring and building the CMake target of its name."""

    def build_extension(self, ext: Extension) -> None:
        """Build `ext` and leave it where setuptools expects it."""
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        cache = tree / "CMakeCache.txt"
        home = f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n"
        if cache.exists() and home not in cache.read_text():
            shutil.rmtree(tree)  # of a checkout that was moved or copied: CMake refuses it

        cmake = find_cmake()
        # An ordinary build outlives compilers that do not exist yet, and their new warnings.
        options = [
            "-DCMAKE_BUILD_TYPE=Release",
            "-DASYNCOPT_PYTHON=ON",
            "-DASYNCOPT_WERROR=OFF",
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        if ninja := find_ninja():
            options += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        options += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(len(os.sched_getaffinity(0)))
        subprocess.run([cmake, "-S", ROOT, "-B", tree, *options], check=True)
        name = ext.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(ext.name))
        built = subprocess.run([cmake, "--build", tree, "--target", name, "-j", jobs], check=False)
        if built.returncode != 0:
            if not ext.optional or CUDA_IS_ON.search(cache.read_text()):
                raise SystemExit(f"{ext.name}: its build failed, see above")
            self.warn(f"{ext.name}: its build failed, see above; installing without CUDA kernels")
            (tree / target.name).unlink(missing_ok=True)  # of an earlier build

        target.parent.mkdir(parents=True, exist_ok=True)
        if ext.optional and not (tree / target.name).exists():
            for left in (target, ROOT / "asyncopt" / target.name):  # of an earlier build
                left.unlink(missing_ok=True)
            return
        # Into place by rename: processes may run the old one, and writing into it would end them.
        shutil.copy2(tree / target.name, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)


setup(
    ext_modules=[
        Extension("asyncopt._core", sources=[]),
        Extension("asyncopt._cuda", sources=[], optional=True),
    ],
    cmdclass={"build_ext": CMakeBuild},
)
