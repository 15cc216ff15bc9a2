"""Classify text: which library is a docstring from? The text comes with the installed packages.

python examples/text_classification.py
"""

import pydoc
import re
from collections import Counter

import torch
from torch import Tensor, nn

import asyncopt

LIBRARIES = ("numpy", "torch", "torch.nn", "sklearn.linear_model", "scipy.stats", "asyncio")
WORDS = 40  # of a docstring


def docstrings(library: str) -> list[list[str]]:
    """The words of the docstrings, without the names of libraries."""
    module = pydoc.locate(library)
    texts = {str(getattr(module, name).__doc__ or "") for name in dir(module)}
    words = (re.findall(r"[a-z]{3,}", text.lower()) for text in sorted(texts))
    return [[word for word in each if word not in " ".join(LIBRARIES)] for each in words]


def train(
    worker: asyncopt.Worker, model: nn.Module, optimizer: asyncopt.Adagrad, *data: Tensor
) -> None:
    for texts, labels in worker.batches(data, batch_size=16, epochs=10, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(texts), labels)
        loss.backward()
        optimizer.step()
        worker.log(loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    found = [(words, i) for i, name in enumerate(LIBRARIES) for words in docstrings(name) if words]
    counts = Counter(word for words, _ in found for word in set(words))
    known = {word: k + 1 for k, (word, _) in enumerate(counts.most_common(10_000))}
    texts = torch.zeros(len(found), WORDS, dtype=torch.long)
    for row, (words, _) in zip(texts, found, strict=True):
        for k, word in enumerate(words[:WORDS]):
            row[k] = known.get(word, 0)
    labels = torch.tensor([label for _, label in found])
    held_out = torch.rand(len(found)) < 0.2
    bag = nn.EmbeddingBag(len(known) + 1, 32, mode="mean", sparse=True, padding_idx=0)
    model = nn.Sequential(bag, nn.Linear(32, len(LIBRARIES)))
    optimizer = asyncopt.Adagrad(model.parameters(), lr=0.1)
    args = (model, optimizer, texts[~held_out], labels[~held_out])
    run = asyncopt.launch(train, args, workers=2)
    right = (model(texts[held_out]).argmax(1) == labels[held_out]).float().mean()
    most = labels[held_out].bincount().max() / held_out.sum()
    print(f"{run}\n{len(found)} docstrings; the most frequent library has {most:.3f} of them")
    print(f"accuracy on held-out docstrings {right:.3f}")
