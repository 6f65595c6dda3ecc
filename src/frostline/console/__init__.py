"""What a command shows and how it ends: errors, progress, signals, the terminal.

May import nothing else of frostline.
"""
