"""Stage report: writes what the transfer bought.

What it may import is said in `pipeline`.
"""
