"""The audit trail: who did what, when, from where, and how it ended."""

from butai.audit import actors
from butai.audit.service import Origin, count, record

__all__ = ["Origin", "actors", "count", "record"]
