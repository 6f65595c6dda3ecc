"""The command line: one file per command, with its parser, help text and function.

May import everything.
"""
