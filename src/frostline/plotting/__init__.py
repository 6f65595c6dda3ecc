"""The look of plots and pages: colours, canvas, style sheet, and filling in templates.

May import `stats` and what is below it.
"""
