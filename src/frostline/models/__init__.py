"""Networks: backbones, adapters, pretrained weights, checkpoints of others, heads, optimizers.

May import `freezing` and what is below it.
"""
