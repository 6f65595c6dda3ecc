"""Stage finetune: trains an arm on the target, once per seed.

May import see `pipeline`.
"""
