"""frostline in Python and notebooks: the functions that `import frostline` offers, and what they return.

May import everything but `commands`; neither calls the other.
"""
