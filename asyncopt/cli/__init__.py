"""The ``asyncopt`` command: compares syncs, shows what staleness does, looks at the machine.

Needs the extra ``asyncopt[cli]``; nothing else in the package imports this one.
"""
