"""How bytes come in: through a form, or past this service on a signed URL; and what one user may keep."""
