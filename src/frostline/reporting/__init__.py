"""The report of a study: inputs, summary, tables, plots, the HTML page.

May import `stats`, `plotting` and what is below them.
"""
