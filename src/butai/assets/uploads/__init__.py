"""How bytes come in: streamed from a form, or sent to the store by a signed URL; and how much one user may keep."""
