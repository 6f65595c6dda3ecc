"""What every stage depends on: files, hashes, locks, names, paths, seeds, metrics, the files of a run.

May import `console` and nothing else of frostline.
"""
