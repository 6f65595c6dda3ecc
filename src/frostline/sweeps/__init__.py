"""Sweeps: the study in Optuna, workers, launchers, the best trial, the page of a sweep.

May import `pipeline`, `probing` and what is below them.
"""
