"""The running service as operators and browsers see it: health, jobs, the audit trail, the console."""
