"""Freeze schedules: the layers of a network, the phases of a plan, learning-rate curves.

May import `schema` and what is below it.
"""
