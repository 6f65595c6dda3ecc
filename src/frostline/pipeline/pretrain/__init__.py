"""Stage pretrain: trains on the source.

May import see `pipeline`.
"""
