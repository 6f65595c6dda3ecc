"""Stage report: compares the arms of a study with the from-scratch baseline.

What it may import is said in `pipeline`.
"""
