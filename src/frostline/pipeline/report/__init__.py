"""Stage report: writes what the transfer bought.

May import see `pipeline`.
"""
