"""Commands that install extras, as messages print them: they fit where the package came from."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from asyncopt import _install

EDITABLE: dict[str, Any] = {"url": "file:///home/me/async%20opt", "dir_info": {"editable": True}}
CHECKOUT: dict[str, Any] = {"url": "file:///home/me/asyncopt", "dir_info": {}}
WHEEL: dict[str, Any] = {"url": "file:///tmp/asyncopt-0.1.0-cp311-linux.whl", "archive_info": {}}


@pytest.mark.parametrize(
    ("recorded", "origin", "command", "rebuild"),
    [
        (None, "package index", "'asyncopt[cli]'", "--no-binary asyncopt asyncopt"),
        (
            EDITABLE,
            "checkout /home/me/async opt",
            "-e '/home/me/async opt[cli]'",
            "-e '/home/me/async opt'",
        ),
        (
            CHECKOUT,
            "checkout /home/me/asyncopt",
            "'/home/me/asyncopt[cli]'",
            "/home/me/asyncopt",
        ),
        (
            WHEEL,
            WHEEL["url"],
            f"'asyncopt[cli] @ {WHEEL['url']}'",
            "--no-binary asyncopt asyncopt",
        ),
    ],
    ids=["index", "editable", "checkout", "wheel"],
)
def test_each_origin(
    recorded: dict[str, Any] | None,
    origin: str,
    command: str,
    rebuild: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "asyncopt-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: asyncopt\nVersion: 0.1.0\n")
    if recorded is not None:
        (folder / "direct_url.json").write_text(json.dumps(recorded))
    found = metadata.PathDistribution(folder)
    monkeypatch.setattr(metadata, "distributions", lambda name: [found])
    monkeypatch.setattr(_install, "_ROOT", tmp_path)
    assert _install.origin() == origin
    assert _install.command("cli") == f"pip install {command}"
    assert _install.rebuild() == f"pip install --force-reinstall --no-deps {rebuild}"


@pytest.mark.slow
def test_the_command_for_this_installation_works() -> None:
    _, *arguments = shlex.split(_install.command("sparse"))
    if _install.origin() == "package index":
        pytest.skip("this package is from no index that the test could ask")
    flags = ["--dry-run", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", *arguments, *flags]
    ended = subprocess.run(pip, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Would install asyncopt" in ended.stdout
