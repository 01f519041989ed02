"""Dumps that other tools left: read as plain data, and told as the events of a run."""
