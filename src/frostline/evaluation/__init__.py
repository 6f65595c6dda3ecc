"""Measures trained weights on the splits of a data set: metrics, predictions, soups.

May import `training` and what is below it.
"""
