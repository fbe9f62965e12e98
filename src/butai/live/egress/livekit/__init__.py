"""LiveKit Egress as an engine."""
