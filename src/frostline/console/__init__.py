"""Output of commands and how they end: errors, progress, signals, tables, the terminal.

May import nothing else of frostline.
"""
