"""What a transfer bought: estimates, intervals, verdicts, and the gate that tests them.

May import `base` and `console`.
"""
