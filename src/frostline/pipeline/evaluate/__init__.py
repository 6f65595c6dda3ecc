"""Stage evaluate: measures an arm on the test split; soups of its seeds.

What it may import is said in `pipeline`.
"""
