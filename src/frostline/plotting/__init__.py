"""The look of plots and pages: colours, canvas, style sheet.

May import `stats` and what is below it.
"""
