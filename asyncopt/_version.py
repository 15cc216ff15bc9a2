"""The version of the package, for pip as for `asyncopt.__version__`: the one place to change it."""

__version__ = "0.1.0"
