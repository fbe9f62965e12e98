"""Brings each broadcast to the state that its host wants: pure functions decide, the reconciler acts."""
