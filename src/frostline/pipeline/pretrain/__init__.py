"""Stage pretrain: trains on the source.

See `pipeline` for what it may import.
"""
