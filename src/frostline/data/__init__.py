"""Images: reading a data set, the prepared index, loading for training.

What they may import is said in its packages.
"""
