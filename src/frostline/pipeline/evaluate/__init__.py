"""Stage evaluate: measures an arm on the test split; soups of its seeds.

See `pipeline` for what it may import.
"""
