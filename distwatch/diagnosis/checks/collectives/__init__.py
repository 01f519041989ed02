"""collective.*: who is missing in one, and whose call differs."""
