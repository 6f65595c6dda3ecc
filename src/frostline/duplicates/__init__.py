"""Finds images that are the same or look alike: hashes, thumbnails, search, contact sheets.

May import `data.prepared` and what is below it.
"""
