"""Search over the library: pages and facets of assets, filtered by the facts inside files.

`filters` parses a query, `pages` finds the rows, `facets` counts values among them, `routes` answers.
"""
