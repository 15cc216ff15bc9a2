"""What torch keeps of the first optimizer of a process is not the store's."""

import torch

import asyncopt

asyncopt.SGD([torch.zeros(1)])
