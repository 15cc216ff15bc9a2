"""Files from the network, checked against a checksum and kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from asyncopt.errors import DownloadError

__all__ = ["cache_folder", "fetch"]

CHUNK = 1 << 20  # bytes
PATIENCE = 30.0  # s without a byte
BEGINNINGS = {".bz2": b"BZh", ".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0", ".zip": b"PK"}


class Checksum(NamedTuple):
    """Checksum of a file, in hexadecimal."""

    algorithm: str
    digits: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """A SHA-256, or an MD5 that begins with ``md5:``.

        Raises:
            ValueError: it is neither.
        """
        if found := re.fullmatch(r"(?:(md5):)?([0-9a-f]+)", text.lower()):
            one = cls(found[1] or "sha256", found[2])
            if len(one.digits) == hashlib.new(one.algorithm).digest_size * 2:
                return one
        raise ValueError(
            f"checksum: expected 64 hexadecimal digits, or 'md5:' and 32 of them; got {text!r}"
        )

    @classmethod
    def of(cls, path: Path, algorithm: str) -> Checksum:
        """Compute the checksum of a file."""
        with open(path, "rb") as file:
            return cls(algorithm, hashlib.file_digest(file, algorithm).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm.upper().replace('SHA', 'SHA-')} {self.digits}"


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/asyncopt``, or ``~/.cache/asyncopt``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "asyncopt"


def fetch(url: str, checksum: str | None, folder: Path | None = None) -> Path:
    """The file at ``url``: from ``folder`` if it is there and whole, else from the network.

    Args:
        url: http or https; its last part names the file.
        checksum: of the whole file: its SHA-256 in hexadecimal, or ``"md5:"`` and its MD5. None,
            where none was published: the file is trusted the first time, and its SHA-256, written
            to ``NAME.sha256`` beside it (``sha256sum -c`` reads it), is asked for ever after.
        folder: where files are kept; by default `cache_folder`. It is made if it is missing.

    Raises:
        ValueError: ``checksum`` is none.
        DownloadError: it is not there and cannot be had, what came is not what was asked for, or
            its record is damaged. In ``folder`` nothing has changed.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / url.rpartition("/")[2]
    record = path.with_name(path.name + ".sha256")
    expected = None if checksum is None else Checksum.parse(checksum)
    if checksum is None and record.exists():
        expected = _recorded(record)
    algorithm = "sha256" if expected is None else expected.algorithm
    if path.exists():
        found = Checksum.of(path, algorithm)
        if expected is None:
            record.write_text(f"{found.digits}  {path.name}\n")
        if expected in (None, found):
            return path
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: expected an address that begins with http:// or https://")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as aside:
        partial = Path(aside) / path.name
        try:
            _download(url, partial)
        except (OSError, http.client.HTTPException) as error:  # also urllib's and the socket's
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise DownloadError(
                f"{url} cannot be downloaded: {reason}; where there is no network, put the file "
                f"at {path}"
            ) from error
        found = Checksum.of(partial, algorithm)
        if expected is None:
            _check_beginning(url, partial)
            record.write_text(f"{found.digits}  {path.name}\n")
        elif found != expected:
            raise DownloadError(
                f"{url}: expected a file with {expected}, got one with {found.digits}; try again, "
                f"or put the right file at {path}"
            )
        os.replace(partial, path)
    return path


def _recorded(record: Path) -> Checksum:
    text = record.read_text(errors="replace")
    try:
        return Checksum.parse(text.partition(" ")[0])
    except ValueError as error:
        raise DownloadError(
            f"{record}: expected the SHA-256 of a file, as sha256sum writes it; got {text[:80]!r}; "
            "remove the record to trust the file that is there, or the next that comes"
        ) from error


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, open(path, "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
        size = answer.headers.get("Content-Length", "")
        if size.isdigit() and file.tell() != int(size):
            raise OSError(f"the connection ended after {file.tell()} of {size} bytes")


def _check_beginning(url: str, path: Path) -> None:
    """Refuse the page of a proxy that came instead of an archive."""
    beginning = BEGINNINGS.get(path.suffix, b"")
    with open(path, "rb") as file:
        found = file.read(max(len(beginning), 8))
    if not found.startswith(beginning):
        raise DownloadError(
            f"{url}: expected a {path.suffix} file, got one that begins with {found!r}; try again, "
            "or from another network"
        )
