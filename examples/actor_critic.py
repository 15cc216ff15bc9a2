"""Share one Adam between reinforcement-learning actors: A3C (arXiv 1602.01783) on a small maze.

python examples/actor_critic.py
"""

import torch
from torch import Tensor, nn

import asyncopt

SIDE, STEPS = 6, 40  # a square maze, steps of an episode at most
MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2 * SIDE, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, place: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        hidden = self.body(nn.functional.one_hot(place, SIDE).flatten().float())
        return torch.distributions.Categorical(logits=self.policy(hidden)), self.value(hidden)[0]


def play(model: ActorCritic) -> tuple[Tensor, float]:
    """One episode from one corner to the other: the loss, and the rewards' sum."""
    place, entropy = torch.zeros(2, dtype=torch.int64), torch.zeros(())
    rewards: list[float] = []
    chances, values = [], []
    while len(rewards) < STEPS and not (rewards and rewards[-1] > 0):
        policy, value = model(place)
        move = policy.sample()
        place = (place + MOVES[move]).clamp(0, SIDE - 1)
        rewards.append(1.0 if bool((place == SIDE - 1).all()) else -0.02)
        chances.append(policy.log_prob(move))
        values.append(value)
        entropy = entropy + policy.entropy()
    returns: list[float] = []
    after = 0.0
    for reward in reversed(rewards):
        after = reward + 0.97 * after
        returns.insert(0, after)
    value = torch.stack(values)
    advantage = torch.tensor(returns) - value
    actor = -(torch.stack(chances) * advantage.detach()).sum()
    return actor + 0.5 * advantage.square().sum() - 0.01 * entropy, sum(rewards)


def act(
    worker: asyncopt.Worker, model: ActorCritic, optimizer: asyncopt.Adam, episodes: int
) -> float:
    recent = 0.0
    for _ in range(episodes):  # each worker has random numbers of its own
        optimizer.zero_grad()
        loss, reward = play(model)
        loss.backward()
        optimizer.step()
        recent += 0.02 * (reward - recent)
    return recent


if __name__ == "__main__":
    torch.manual_seed(0)
    model = ActorCritic()
    optimizer = asyncopt.Adam(model.parameters(), lr=2e-3)
    run = asyncopt.launch(act, (model, optimizer, 800), workers=2)
    print(f"{run}\nmean reward at the end {sum(run.results) / 2:.2f} (at most 0.82)")
