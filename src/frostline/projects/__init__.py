"""A user's project: its files, and the version of frostline's code that its results depend on.

May import `sweeps` and what is below it.
"""
