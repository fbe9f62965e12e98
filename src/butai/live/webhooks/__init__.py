"""LiveKit's webhooks: verified, stored, shown in the timeline, passed on as a hint."""
