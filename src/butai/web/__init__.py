"""The HTTP ground that all routes stand on: who calls, errors, limits, metrics, documentation."""
