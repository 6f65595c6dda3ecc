"""Sheets of images: training images as the network sees them, predictions, mistakes.

May import `serving` and what is below it.
"""
