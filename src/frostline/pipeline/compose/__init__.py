"""Stage compose: resolves the selection into one file per stage and checks the study.

What it may import is said in `pipeline`.
"""
