"""The product shown to a newcomer, on one machine and without an account anywhere: files to begin with, and going live.

It is a client of the service like any other: over HTTP, with a host and two platforms, each in a process of its own. The
service imports nothing of it, and it imports nothing of the service.
"""
