"""One training run: Lightning module, data module, callbacks, losses, averaging, inference.

May import `features` and what is below it; only this package imports Lightning.
"""
