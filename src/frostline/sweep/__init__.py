"""Sweeps: many runs of one experiment, in a study that outlives the command.

`space` says what varies, `study` keeps the trials in a store that several processes share, `worker` runs them
one after the other in a warm process, `sweeper` sends workers off through Hydra's launchers.
"""
