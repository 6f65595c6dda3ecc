"""Stage report: compares the arms of a study with the from-scratch baseline.

See `pipeline` for what it may import.
"""
