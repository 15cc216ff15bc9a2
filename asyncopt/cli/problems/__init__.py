"""The problems that ``asyncopt compare`` measures; a new one is a module and a line here."""

from asyncopt.cli.problems.base import Problem
from asyncopt.cli.problems.contention import Contention
from asyncopt.cli.problems.digits import DIGITS
from asyncopt.cli.problems.mnist import MNIST

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (MNIST, DIGITS, Contention())}
