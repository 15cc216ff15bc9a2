"""Stands in for Weights & Biases: the calls that docs/runs.md makes, with their signatures."""

from __future__ import annotations


class Run:
    """Checks what a run is given; prints each step that is logged."""

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert all(isinstance(value, (int, float)) for value in data.values()), data
        print(f"step {step}: {len(data)} scalars")

    def alert(self, title: str, text: str) -> None:
        print(f"alert: {title}: {text}")

    def finish(self, exit_code: int | None = None) -> None:
        print(f"finished with {exit_code}")


def init(project: str | None = None) -> Run:
    return Run()
