"""What operators and browsers are shown of the running service: health, jobs, the audit trail, the console."""
