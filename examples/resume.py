"""Kill a run with kill -9, and resume it where it was.

python examples/resume.py runs/digits    # kill it at any time, and run the same command again
"""

import os
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import asyncopt


def train(
    worker: asyncopt.Worker, model: nn.Module, optimizer: asyncopt.SGD, *data: Tensor
) -> None:
    for images, labels in worker.batches(data, batch_size=16, epochs=100, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        worker.log(loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    digits = load_digits()
    data = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = nn.Linear(64, 10)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    checkpoint = asyncopt.Checkpoints(sys.argv[1], every=0.5)  # seconds
    args = (model, optimizer, *data)
    print(f"kill -9 {os.getpid()}", flush=True)
    run = asyncopt.launch(train, args, workers=2, checkpoint=checkpoint, resume=True)
    print(f"{run.ledger.pushes} updates since the last start, {optimizer.ledger().version} in all")
