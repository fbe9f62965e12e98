"""Findings: disagreements of index and store beyond those that a patrol sees, and the actions of operators on all of
them."""
