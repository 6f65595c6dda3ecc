"""Stage finetune: trains an arm on the target, once per seed.

What it may import is said in `pipeline`.
"""
