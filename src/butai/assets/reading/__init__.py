"""Reads of files: what a key names, conditions and ranges, bodies, and the usage that decides what the patrol checks first."""
