"""Images at training size: pixels, augmentation, mixing, batches, prefetching.

May import `data.prepared`, `data.reading`, `models` and what is below them.
"""
