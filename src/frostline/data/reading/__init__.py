"""A data set on disk: sources, folders, formats, decoding, the index, splits.

May import `schema` and what is below it.
"""
