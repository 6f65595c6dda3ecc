"""Feature reuse: where a network splits, what lies below is computed once and cached.

May import `data`, `freezing` and what is below them.
"""
