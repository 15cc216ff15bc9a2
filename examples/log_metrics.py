"""Log a run's metrics as JSON lines; a logger for W&B or MLflow looks the same.

python examples/log_metrics.py metrics.jsonl
"""

import json
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import asyncopt


class JsonLines(asyncopt.Observer):
    """One JSON object per second: updates, losses, staleness, lock waits, use of the cores."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - `end` closes it

    def start(self, run: asyncopt.RunView) -> None:
        self.metrics = asyncopt.Metrics(run)

    def tick(self, now: float) -> None:
        metrics = self.metrics()  # first, as it counts the updates
        print(json.dumps({"updates": self.metrics.updates, **metrics}), file=self.file, flush=True)

    def end(self, error: BaseException | None) -> None:
        self.tick(0)
        self.file.close()


def train(
    worker: asyncopt.Worker, model: nn.Module, optimizer: asyncopt.Adam, *data: Tensor
) -> None:
    for images, labels in worker.batches(data, batch_size=64, epochs=100, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        worker.log(loss)


if __name__ == "__main__":
    digits = load_digits()
    data = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = asyncopt.Adam(model.parameters(), lr=1e-3)
    path = sys.argv[1] if len(sys.argv) > 1 else "metrics.jsonl"
    args = (model, optimizer, *data)
    run = asyncopt.launch(train, args, workers=2, observers=[JsonLines(path)])
    accuracy = (model(data[0]).argmax(1) == data[1]).float().mean()
    print(f"{run}\naccuracy {accuracy:.3f}; metrics in {path}")
