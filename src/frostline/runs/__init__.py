"""A finished run: its config, its network, images to try it on, the form in which it is served.

May import `preparation`, `training` and what is below them.
"""
