"""Memory use of processes."""

from __future__ import annotations

from pathlib import Path


def anonymous_bytes(process: int | str = "self") -> int:
    """Private bytes plus the proportional share of shared ones, without program files."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss_Anon:")
    )
