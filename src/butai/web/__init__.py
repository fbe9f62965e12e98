"""What the routes of all folders share: identification of callers, errors, limits, metrics, documentation."""
