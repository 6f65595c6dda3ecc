"""Stage compose: resolves the selection into one file per stage and checks the study.

May import see `pipeline`.
"""
