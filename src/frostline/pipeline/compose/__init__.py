"""Stage compose: resolves the selection into one file per stage and checks the study.

See `pipeline` for what it may import.
"""
