"""What `frostline doctor` checks, by subject.

What it may import is said in `commands`.
"""
