"""A small read-only HTTP server for the runs of this node. Every answer is read from disk on request."""
