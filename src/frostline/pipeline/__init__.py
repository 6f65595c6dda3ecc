"""The stages of a study, and standalone runs of them.

May import all but `serving`, `probing`, `sweeps` and `commands`.
"""
