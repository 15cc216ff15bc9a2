"""A module that makes an optimizer when it is imported."""

from .objects import Agent

agent = Agent()
