"""Stage pretrain: trains on the source.

What it may import is said in `pipeline`.
"""
