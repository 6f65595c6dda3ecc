"""What a run would do before it does: phases, cost, duration, text and plot of a plan.

May import `training` and what is below it.
"""
