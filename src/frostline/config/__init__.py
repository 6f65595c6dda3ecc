"""Hydra: composing an experiment from `conf/`, overrides, the values of a sweep.

May import `schema` and what is below it; only this package and the Hydra plug-ins import Hydra.
"""
