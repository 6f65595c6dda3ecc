"""What `frostline doctor` checks, by subject.

See `commands` for what it may import.
"""
