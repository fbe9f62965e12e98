"""The library's own list and its facets: what is inside files as something to search by.

`filters` reads what a caller asks for, `pages` finds the rows, `facets` counts what is among them, `routes` answers.
"""
