"""The stages of the study, and a stage as a command of its own.

May import all but `serving`, `probing`, `sweeps` and `commands`.
"""
