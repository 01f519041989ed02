"""Dumps that other tools left: read as plain data, and turned into the events of a run."""
