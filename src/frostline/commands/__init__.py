"""The command line: parser, help texts, one function per command.

May import everything.
"""
