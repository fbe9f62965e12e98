"""Uploads that can be taken up again, by the tus protocol 1.0."""
