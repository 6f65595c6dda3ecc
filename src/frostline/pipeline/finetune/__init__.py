"""Stage finetune: trains an arm on the target, once per seed.

See `pipeline` for what it may import.
"""
