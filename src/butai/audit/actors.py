"""The names of actors in the audit trail, in timelines and in the history of assets.

Each begins with its kind, `user:…`, `host:…` or `service:…`, so that a user called `worker` is told from the service's
own worker. Rows of versions before 0.2 have bare names (`alice`, `worker`), and `host_token:…` for a host token.
"""

from __future__ import annotations


def user(user_id: str) -> str:
    """A signed-in user, or one of the user's API keys."""
    return f"user:{user_id}"


def host(identity: str) -> str:
    """The holder of a room's host token, by the identity in it."""
    return f"host:{identity}"


def service(name: str) -> str:
    """A process or a command of Butai, or LiveKit with its webhooks."""
    return f"service:{name}"


CONTROLLER = service("controller")
WORKER = service("worker")
COMMAND_LINE = service("cli")
