"""The ``asyncopt`` command: options and exit codes of the studies.

It needs the extra ``asyncopt[cli]``; no other part of the package imports this one.
"""
