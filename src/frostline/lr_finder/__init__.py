"""Learning-rate range test: the loss at exponentially increasing learning rates, and a suggestion.

May import `serving` and what is below it.
"""
