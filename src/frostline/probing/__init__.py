"""Heads on frozen features: batched training, ridge, nearest neighbours, ranking of backbones.

May import `pipeline` and what is below it.
"""
