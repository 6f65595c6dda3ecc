"""Stage `leakage`: compares the source's images with those that the target is measured on.

May import `duplicates` and what is below it.
"""
