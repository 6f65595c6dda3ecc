"""Transfer measures: estimates, intervals, verdicts, and the gate that tests them.

May import `base` and `console`.
"""
