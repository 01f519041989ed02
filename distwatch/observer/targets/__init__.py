"""Finds the run that a user's word means, and opens it: on disk, live or through its root."""
