"""Reads a data set once: checks every image, finds duplicates, splits, writes the index.

May import `data.reading` and what is below it.
"""
