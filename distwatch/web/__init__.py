"""A small read-only HTTP server on the runs of this node. Every answer is read from disk when asked."""
