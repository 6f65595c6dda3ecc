"""Data sets: where images come from, what is wrong with them, which split each is in, and their pixels."""
