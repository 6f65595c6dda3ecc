"""Images: reading a data set, the prepared index, loading for training.

Each of its packages says what it may import.
"""
