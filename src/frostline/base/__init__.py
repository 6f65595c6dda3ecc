"""What every stage depends on: files, hashes, locks, names, paths, processes, seeds, metrics, run folders.

May import `console` and nothing else of frostline.
"""
