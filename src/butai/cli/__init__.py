"""The `butai` command: `commands` declares what can be typed, the modules beside it run it."""
