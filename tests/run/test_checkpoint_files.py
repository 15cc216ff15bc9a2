"""The directory of checkpoints: its files, their permissions, and detection of damage."""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from asyncopt.errors import CheckpointError
from asyncopt.run import checkpoint as package
from asyncopt.run.checkpoint import Checkpoints, directory, load, resume, save
from asyncopt.run.checkpoint.directory import Directory
from tests.other_user import SOMEBODY, as_root, as_somebody


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def model(value: float = 1.0) -> torch.nn.Module:
    made = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(made.weight, value)
    torch.nn.init.constant_(made.bias, -value)
    return made


def steps(path: Path) -> list[int]:
    return [load(each).step for each in sorted(path.glob("checkpoint-*"))]


# --- Files


def test_files_are_plain_and_open_to_their_owner_alone(tmp_path: Path) -> None:
    where = save(model(), tmp_path / "new" / "run", step=5, meta={"epoch": 1})
    assert where == tmp_path / "new" / "run" / "checkpoint-000000001"
    assert sorted(each.name for each in where.iterdir()) == [
        "checkpoint.json",
        "tensors.safetensors",
    ]
    modes = {stat.S_IMODE(each.stat().st_mode) for each in (where, where.parent)}
    assert modes == {0o700}
    assert {stat.S_IMODE(each.stat().st_mode) for each in where.iterdir()} == {0o600}

    tensors = safetensors.torch.load_file(where / "tensors.safetensors")
    assert {name: t.tolist() for name, t in tensors.items()} == {
        "modules.0.weight": [[1.0, 1.0]],
        "modules.0.bias": [-1.0],
    }
    manifest = json.loads((where / "checkpoint.json").read_text())["checkpoint"]
    assert manifest["format_version"] == 2
    assert manifest["step"] == 5
    assert manifest["meta"] == {"epoch": 1}
    data = (where / "tensors.safetensors").read_bytes()
    assert manifest["files"] == {
        "tensors.safetensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    }
    assert manifest["tensors"]["modules.0.bias"] == {
        "dtype": "F32",
        "shape": [1],
        "sha256": hashlib.sha256(tensors["modules.0.bias"].numpy().tobytes()).hexdigest(),
    }


def test_nothing_is_pickled() -> None:
    folder = Path(package.__file__).parent
    modules = [*folder.glob("*.py"), folder.parent / "random_states.py"]
    assert len(modules) > 7
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ())]
            assert "pickle" not in [*names, getattr(node, "module", "")], path
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"), path


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """In the order of writing, whatever their steps: a run that starts anew may count from 0."""
    for step in (900, 10, 20, 30):
        save(model(), tmp_path, step=step, keep=3)
    assert steps(tmp_path) == [10, 20, 30]
    save(model(), tmp_path, step=40, keep=1)
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == ["checkpoint-000000005"]
    found = resume(tmp_path)
    assert found is not None
    assert found.step == 40
    assert repr(found) == f"Checkpoint('{tmp_path}/checkpoint-000000005', step=40)"


def test_what_a_dead_writer_left_is_cleared_away(tmp_path: Path) -> None:
    save(model(), tmp_path)
    for name in (".partial-0123", ".removed-4567"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "file").write_text("half")
    assert resume(tmp_path) is not None
    save(model(), tmp_path)
    left = sorted(each.name for each in tmp_path.iterdir())
    assert left == [".lock", "checkpoint-000000001", "checkpoint-000000002"]


def test_nothing_there_yet(tmp_path: Path) -> None:
    assert resume(tmp_path) is None
    assert resume(tmp_path / "no" / "such") is None
    assert list(tmp_path.iterdir()) == []
    nowhere = tmp_path / "no" / "such"
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(nowhere)))):
        load(nowhere)


def test_load_takes_one_checkpoint(tmp_path: Path) -> None:
    path = save(model(), tmp_path)
    with pytest.raises(CheckpointError, match=r"^path: expected one checkpoint, .*\.resume"):
        load(tmp_path)
    assert load(path).path == path


def test_a_renamed_checkpoint_loads(tmp_path: Path) -> None:
    best = tmp_path / "best"
    save(model(), tmp_path / "run", step=7).rename(best)
    assert load(best).step == 7


# --- Two writers


def test_one_process_writes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOCK_GRACE", 0.1)
    with Directory(tmp_path, write=True):
        with pytest.raises(CheckpointError, match="no other run writes to"):
            save(model(), tmp_path)
        assert resume(tmp_path) is None  # reading needs no lock
    save(model(), tmp_path)


# --- Other users


@as_root
def test_another_users_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    os.lchown(link, SOMEBODY, SOMEBODY)
    for path in (link, link / "run"):
        with pytest.raises(CheckpointError, match="no symlink of another user, got 'link'"):
            save(model(), path)
        with pytest.raises(CheckpointError, match="made by user 65534"):
            resume(path)
    assert list((tmp_path / "real").iterdir()) == []


def test_ones_own_symlinks_on_the_way_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "relative").symlink_to("real/../real")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    save(model(), tmp_path / "absolute" / ".." / "absolute" / "run", step=3)
    assert steps(tmp_path / "real" / "run") == [3]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CheckpointError, match="Too many levels of symbolic links"):
        save(model(), tmp_path / "loop")


@as_root
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    squatted = tmp_path / "squatted"
    squatted.mkdir()
    os.chown(squatted, SOMEBODY, SOMEBODY)
    for act in (lambda: save(model(), squatted), lambda: resume(squatted)):
        with pytest.raises(CheckpointError, match=r"a directory of your own, got .* user 65534"):
            act()
    assert list(squatted.iterdir()) == []


@as_root
def test_another_user_sees_nothing(tmp_path: Path) -> None:
    where = save(model(), tmp_path / "run")
    (tmp_path / "open").write_text("to all")
    (tmp_path / "open").chmod(0o644)
    tmp_path.chmod(0o755)
    inner = where.relative_to(tmp_path)
    paths: tuple[str | Path, ...] = (
        "run",
        inner,
        inner / "checkpoint.json",
        inner / "tensors.safetensors",
        "open",
    )
    at = os.open(tmp_path, os.O_PATH)
    ends = as_somebody([partial(os.open, path, os.O_RDONLY, dir_fd=at) for path in paths])
    os.close(at)
    assert ends == ["EACCES"] * 4 + ["done"]


def test_a_directory_that_everybody_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(CheckpointError, match="which everybody can; chmod o-w"):
        save(model(), tmp_path)
    tmp_path.chmod(0o1777)  # as /tmp: nobody can rename what is another's
    save(model(), tmp_path)


@pytest.mark.parametrize("inner", ["", "checkpoint.json", "tensors.safetensors"])
def test_no_symlink_within_is_followed(tmp_path: Path, inner: str) -> None:
    save(model(1), tmp_path, step=1)
    newest = save(model(2), tmp_path, step=2)
    (newest / inner).rename(tmp_path / "elsewhere")
    (newest / inner).symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="trying the one before"):
        found = resume(tmp_path)
    assert found is not None
    assert found.step == 1


def test_a_pipe_in_place_of_a_file_is_refused_without_blocking(tmp_path: Path) -> None:
    where = save(model(), tmp_path)
    (where / "checkpoint.json").unlink()
    os.mkfifo(where / "checkpoint.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(where)


# --- Damage


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    where = save(model(), tmp_path)
    for path in where.iterdir():
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(CheckpointError):
                load(where)
        path.write_bytes(data)
    load(where)


@pytest.mark.parametrize("name", ["checkpoint.json", "tensors.safetensors"])
def test_every_other_length_is_found(tmp_path: Path, name: str) -> None:
    where = save(model(), tmp_path)
    data = (where / name).read_bytes()
    for wrong in (*(data[:n] for n in range(0, len(data), 7)), data + b"\0", data + data):
        (where / name).write_bytes(wrong)
        with pytest.raises(CheckpointError, match=name):
            load(where)
    (where / name).unlink()
    with pytest.raises(CheckpointError, match="expected a whole checkpoint"):
        load(where)


def test_the_message_names_the_damaged_tensor(tmp_path: Path) -> None:
    where = save(model(), tmp_path)
    file = where / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    at = data.index(torch.tensor([1.0, 1.0]).numpy().tobytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"checksum of tensor 'modules\.0\.weight'"):
        load(where)


def test_tensors_of_another_checkpoint_are_found(tmp_path: Path) -> None:
    one, two = (save(model(value), tmp_path) for value in (1, 2))
    shutil.copy(one / "tensors.safetensors", two / "tensors.safetensors")
    with pytest.raises(CheckpointError, match="does not match"):
        load(two)


def test_damaged_ones_are_passed_over_with_a_warning(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        where = save(model(step), tmp_path, step=step)
    (where / "tensors.safetensors").unlink()
    (tmp_path / "checkpoint-000000002" / "checkpoint.json").write_text("{}")
    with pytest.warns(RuntimeWarning) as told:
        found = resume(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(told) == 2
    shutil.rmtree(tmp_path / "checkpoint-000000001")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(CheckpointError, match=r"a whole checkpoint in .*, got 2 damaged ones"),
    ):
        resume(tmp_path)


def test_another_format_is_no_damage(tmp_path: Path) -> None:
    """An older checkpoint must not be taken, and written over, in its place."""
    save(model(), tmp_path)
    file = save(model(), tmp_path) / "checkpoint.json"
    body = file.read_bytes()[len(b'{"sha256": "') + 64 + len(b'",\n"checkpoint": ') : -2]
    body = body.replace(b'"format_version": 2', b'"format_version": 3')
    text = b'{"sha256": "%s",\n"checkpoint": %s}\n'
    file.write_bytes(text % (hashlib.sha256(body).hexdigest().encode(), body))
    expected = "expected format version 2, got 3, written by asyncopt"
    with pytest.raises(CheckpointError, match=expected):
        resume(tmp_path)


def test_nothing_is_lost_when_permission_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no damage is raised; no older checkpoint is loaded instead."""
    save(model(), tmp_path)
    real = os.open

    def denied(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "tensors.safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError):
        resume(tmp_path)


# --- Arguments


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"path": 3}, TypeError, "path: expected a path, got int"),
        ({"path": "x", "every": 0}, ValueError, "every: expected seconds > 0, got 0"),
        ({"path": "x", "every": "1"}, TypeError, "every: expected seconds > 0, got '1'"),
        ({"path": "x", "every": float("inf")}, ValueError, "every: expected seconds > 0"),
        ({"path": "x", "keep": 0}, ValueError, "keep: expected an integer >= 1, got 0"),
        ({"path": "x", "keep": True}, TypeError, "keep: expected an integer >= 1, got True"),
    ],
)
def test_settings(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Checkpoints(**arguments)  # type: ignore[arg-type]


def test_keep_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep"):
        save(model(), tmp_path / "run", keep=0)
    assert list(tmp_path.iterdir()) == []
