"""Alerts: notify operators of faults. Raised in the transaction of the fault's event, delivered by jobs."""
