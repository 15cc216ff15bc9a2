"""Files from the network, checked against their SHA-256 and kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from asyncopt.errors import DownloadError

__all__ = ["cache_folder", "fetch"]

CHUNK = 1 << 20  # bytes
PATIENCE = 30.0  # s without a byte


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/asyncopt``, or ``~/.cache/asyncopt``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "asyncopt"


def fetch(url: str, sha256: str, folder: Path | None = None) -> Path:
    """The file at ``url``: from ``folder`` if it is there and whole, else from the network.

    Args:
        url: http or https; its last part names the file.
        sha256: of the whole file, in hexadecimal.
        folder: where files are kept; by default `cache_folder`. It is made if it is missing.

    Raises:
        DownloadError: it is not there and cannot be had, or what came is not what was asked for. In
            ``folder`` nothing has changed.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / url.rpartition("/")[2]
    if path.exists() and _digest(path) == sha256:
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
        found = _digest(partial)
        if found != sha256:
            raise DownloadError(
                f"{url}: expected a file with SHA-256 {sha256}, got one with {found}; try again, "
                f"or put the right file at {path}"
            )
        os.replace(partial, path)
    return path


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer, open(path, "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
