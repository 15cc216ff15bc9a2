"""Warm-up: torch keeps memory for the first optimizer of a process."""

import torch

import asyncopt

asyncopt.SGD([torch.zeros(1)])
