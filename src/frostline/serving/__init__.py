"""Uses a finished run: finds it by its name, predicts, exports.

May import `pipeline` and what is below it.
"""
