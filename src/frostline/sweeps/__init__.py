"""Sweeps: search space to study in Optuna, samplers and pruners, workers, the best trial, a sweep's report.

May import `pipeline`, `probing` and what is below them.
"""
