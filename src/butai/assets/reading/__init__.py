"""Reads of files: conditions and ranges, bodies, and the usage that decides what the patrol checks first."""
