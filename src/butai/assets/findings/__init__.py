"""Findings: disagreements of index and store beyond what a patrol sees, and what an operator does about any of them."""
