"""Demonstrations on one machine, without any account: files to begin with, and going live.

They are clients of the service like any other: over HTTP, with a host and two platforms, each in a process of its own.
The service imports nothing of them, and they import nothing of the service.
"""
