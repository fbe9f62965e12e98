"""Alerts: notify an operator of what is wrong. Raised in the transaction of what happened, delivered by jobs."""
