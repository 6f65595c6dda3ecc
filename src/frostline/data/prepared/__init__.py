"""A prepared data set: the index of its images, classes and splits.

May import `data.reading` and what is below it.
"""
