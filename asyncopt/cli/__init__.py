"""The ``asyncopt`` command: compares the syncs on real problems, and looks at the machine.

Needs the extra ``asyncopt[cli]``; nothing else in the package imports this one.
"""
