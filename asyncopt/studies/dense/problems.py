"""The problems that ``asyncopt compare`` measures; a new one is a module and a line here."""

from asyncopt.studies.dense.base import Problem
from asyncopt.studies.dense.contention import Contention
from asyncopt.studies.dense.digits import DIGITS
from asyncopt.studies.dense.mnist import MNIST

PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (MNIST, DIGITS, Contention())}
