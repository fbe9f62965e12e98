"""Alerts: what an operator must know without looking. Raised in the transaction of what happened, delivered by jobs."""
