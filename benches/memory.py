"""How much memory processes have."""

from __future__ import annotations

from pathlib import Path


def anonymous_bytes(process: int | str = "self") -> int:
    """Its own, and its share of what it has together with others; program files are left out."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss_Anon:")
    )
