"""Images: reading a data set, and loading it for training.

May import see its two packages.
"""
