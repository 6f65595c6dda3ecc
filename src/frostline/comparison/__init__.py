"""Compares recorded runs: statistics, table, plot, page.

May import `tracking`, `reporting` and what is below them.
"""
